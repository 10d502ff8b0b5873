"""MaskBlock against a loop over blocks."""

from __future__ import annotations

import torch

from study.attacks.components.maskblock import MaskBlock
from study.attacks.presets import keys_of
from tests.view_trials import ascent, attacked, classifier, differing, gradient, logits_of, made, pixels


def direct(image, patch=4):
    copies = []
    for top in range(0, image.shape[2], patch):
        for left in range(0, image.shape[3], patch):
            copy = image.clone()
            copy[:, :, top : top + patch, left : left + patch] = 0
            copies.append(copy)
    return copies


def test_every_block_is_black_once():
    image = torch.from_numpy(pixels(16)).double()
    view = MaskBlock()
    copies = [made([view], image, copy) for copy in range(view.count)]
    assert all(torch.equal(ours, one) for ours, one in zip(copies, direct(image), strict=True))
    # Blocks of unequal size cover every pixel once, too.
    odd = torch.ones(4, 3, 13, 10, dtype=torch.float64)
    assert torch.equal(sum(1 - made([MaskBlock(grid=3)], odd, copy) for copy in range(9)), odd)


def test_the_attack_is_the_mean_gradient():
    images = pixels(16)
    model = logits_of(classifier(16))

    def direction(image, step):
        image = image.detach().requires_grad_(True)
        return gradient(torch.stack([model(copy) for copy in direct(image)]), image)

    expected = ascent(direction, torch.from_numpy(images).double(), 3, 16 / 3)
    assert differing(attacked(model, keys_of("maskblock", {"steps": 3}), images), expected) < 1e-3
