"""Everywhere against its masks written out, and against the authors' loop with the same draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from study.attacks import Attack
from study.attacks.components.everywhere import Everywhere
from study.attacks.presets import keys_of
from tests.view_trials import STREAMS, attacked, classifier, differing, logits_of, made, pixels

MEAN = torch.tensor([123.675, 116.28, 103.53], dtype=torch.float64)[:, None, None]


def blocks(step, number, count):
    """The order of each image's blocks at a step: by the drawn numbers."""
    return [np.argsort(words).tolist() for words in STREAMS.integers(count, "everywhere", step, number)]


def kept(image, block, grid):
    """One image (C, S, S) with the mean colour outside of a block."""
    side = -(-image.shape[-1] // grid)
    mask = torch.zeros_like(image)
    row, column = divmod(block, grid)
    mask[:, row * side : (row + 1) * side, column * side : (column + 1) * side] = 1
    return mask * image + (1 - mask) * MEAN


@pytest.mark.parametrize(("size", "grid", "samples"), [(16, 4, 9), (15, 4, 16), (24, 3, 4)])
def test_copies_keep_the_drawn_blocks(size, grid, samples):
    """For 299 pixels the authors' blocks have 75: the side, rounded up. Sizes here have the same property."""
    image = torch.from_numpy(pixels(size)).double()
    view = Everywhere(grid=grid, samples=samples)
    assert view.count == samples + 1
    assert torch.equal(made([view], image, 0, step=2), image)
    orders = blocks(2, 0, grid**2)
    assert len({tuple(order) for order in orders}) == 4
    for copy in range(1, samples + 1):
        expected = torch.stack([kept(one, order[copy - 1], grid) for one, order in zip(image, orders, strict=True)])
        torch.testing.assert_close(made([view], image, copy, step=2), expected, rtol=0, atol=1e-9)


def test_the_blocks_of_299_pixels_are_the_authors():
    image = torch.full((4, 3, 299, 299), -1.0)
    found = {
        tuple((one == -1).all(0).nonzero().T.unique_consecutive(dim=1)[:, 0].tolist())
        for one in made([Everywhere()], image, 1)
    }
    assert found <= {(row, column) for row in (0, 75, 150, 225) for column in (0, 75, 150, 225)}


def test_the_attack_is_the_authors_loop():
    """Diversity first, one for all copies of an image, then the masks; TI, and momentum of the mean gradient."""
    images = pixels(20)
    model = logits_of(classifier(20))
    clean = torch.from_numpy(images).double()
    targets = torch.tensor([1, 2, 3, 4])
    line = torch.exp(-0.5 * torch.linspace(-3, 3, 5, dtype=torch.float64) ** 2)
    kernel = torch.outer(line, line) / line.sum() ** 2
    delta, momentum = torch.zeros_like(clean), torch.zeros_like(clean)
    for step in range(3):
        leaf = (clean + delta).requires_grad_(True)
        shrunk = []
        for one, words in zip(leaf, STREAMS.integers(4, "diversity", step, 0).tolist(), strict=True):
            if words[0] / 2**64 >= 0.7:
                shrunk.append(one)
                continue
            inner = round(0.903 * 20) + words[1] % (20 - round(0.903 * 20))
            top, left = words[2] % (20 - inner + 1), words[3] % (20 - inner + 1)
            small = functional.interpolate(one[None], (inner, inner))
            shrunk.append(functional.pad(small, (left, 20 - inner - left, top, 20 - inner - top))[0])
        loss = functional.cross_entropy(model(torch.stack(shrunk)), targets, reduction="sum")
        orders = blocks(step, 0, 16)
        for copy in range(9):
            masked = torch.stack([kept(one, order[copy], 4) for one, order in zip(shrunk, orders, strict=True)])
            loss = loss + functional.cross_entropy(model(masked), targets, reduction="sum")
        (found,) = torch.autograd.grad(loss, leaf)
        found = functional.conv2d(found, kernel.expand(3, 1, 5, 5), padding=2, groups=3)
        momentum = momentum + found / found.abs().mean((1, 2, 3), keepdim=True)
        delta = (delta - 2 * momentum.sign()).clamp(-16, 16)
        delta = (clean + delta).clamp(0, 255) - clean
    ours = attacked(model, keys_of("everywhere", {"steps": 3}), images, goal="targeted")
    assert differing(ours, clean + delta) < 2e-3


def test_more_samples_than_blocks_are_refused():
    with pytest.raises(ValueError, match="at most its `grid` x `grid` blocks"):
        Attack.model_validate(keys_of("everywhere", {"views": [{"everywhere": {"grid": 2}}]}))
