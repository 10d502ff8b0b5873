"""PNA and PatchOut against torchattack with its patches drawn by us; the norm by autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchattack.pna_patchout
from torch.nn import functional

from study.attacks.components.patchout import PatchOut
from study.attacks.components.perturbation_norm import PerturbationNorm
from study.attacks.kinds import StepDraws
from study.attacks.presets import keys_of
from study.errors import StudyError
from tests.study.attacks.components import small_sources as small


def order(image: int, step: int, count: int) -> np.ndarray:
    """The patches of one image in the order of their draws."""
    return np.argsort(small.STREAMS.integers(count, "patchout", step, 0)[image])


def test_it_is_torchattacks_with_the_same_patches(monkeypatch):
    network, clean = small.vit(64), small.images(64)
    steps, found = 3, []
    for row in range(len(clean)):

        class Patches(torchattack.pna_patchout.PNAPatchOut):
            def __init__(self, *given, **options):
                super().__init__(*given, **options)
                self.image_size, self.max_num_patches = 64, 16
                self.sample_num_patches = round(130 / 196 * 16)

        calls = iter(range(steps))

        def drawn(count, row=row, calls=calls):
            return torch.from_numpy(order(row, next(calls), count))

        monkeypatch.setattr(torch, "randperm", drawn)
        part = small.torchattacks_images(
            _of_one(Patches, row), small.unfused(network), clean[row : row + 1],
            hook_cfg="vit_base_patch16_224", eps=16 / 255, steps=steps,
        )  # fmt: skip
        found.append(part)
    keys = keys_of("pna-patchout", {"steps": steps, "penalties": []})
    assert small.apart(small.ours(small.source(network, 64), keys, clean), np.concatenate(found)) < 1e-4


def _of_one(attack, row):
    """The attack on one image of several, with the label of that row."""

    def made(*given, **options):
        built = attack(*given, **options)
        return lambda x, _: built(x, torch.from_numpy(small.LABELS[row : row + 1]))

    return made


def test_patches_are_kept_for_each_image():
    part = PatchOut(patch=16)
    clean = torch.from_numpy(small.images(40)).double()
    given = _Given(clean, StepDraws(small.STREAMS, "patchout", "cpu", 2, 0))
    seen = part.make(clean + 5, given)
    for image in range(3):
        kept = set(order(image, 2, 9)[: round(130 / 196 * 9)].tolist())
        for row in range(40):
            for column in range(40):
                moved = 5 if (row // 16) * 3 + column // 16 in kept else 0
                assert (seen[image, :, row, column] == clean[image, :, row, column] + moved).all()


class _Given:
    def __init__(self, origin, draws):
        self.origin, self.draws = origin, draws


def test_the_norm_is_the_gradient_of_the_printed_term():
    delta = torch.randn(3, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    delta[2] = 0
    leaf = delta.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(0.1 * (leaf / 255).flatten(1).norm(dim=1)[:2].sum(), leaf)
    torch.testing.assert_close(PerturbationNorm().gradient(delta), wanted)


def test_the_preset_adds_the_norm():
    """One image, two steps: the cross-entropy's gradient through values only, plus 0.1 d / |d| of the whole
    perturbation."""
    network, clean = small.vit(48, 2), small.images(48)
    origin = torch.from_numpy(clean).double()

    def by_hand(pixels):
        x = network._pos_embed(network.patch_embed(small.normalised(pixels)))
        for block in network.blocks:
            query, key, value = block.attn.qkv(block.norm1(x)).reshape(len(x), -1, 3, 2, 12).permute(2, 0, 3, 1, 4)
            weights = torch.softmax(query @ key.mT / 12**0.5, -1).detach()
            x = x + block.attn.proj((weights @ value).transpose(1, 2).flatten(2))
            x = x + block.mlp(block.norm2(x))
        return network.head(network.norm(x)[:, 0])

    def gradient(image, step):
        masks = torch.zeros(3, 1, 9, dtype=torch.float64)
        for row in range(3):
            masks[row, 0, order(row, step, 9)[:6].copy()] = 1
        masks = functional.interpolate(masks.view(3, 1, 3, 3), scale_factor=16, mode="nearest")
        delta = image - origin
        (found,) = small.gradient_of(lambda x: by_hand(origin + masks * (x - origin)), image)
        norm = delta.detach().flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
        return found + strength / 255 * delta.detach() / norm

    for strength in (0.1, 30.0):
        changes = {"steps": 3, "penalties": [{"perturbation-norm": {"strength": strength}}]}
        wanted = small.looped(gradient, clean, steps=3)
        found = small.ours(small.source(network, 48), keys_of("pna-patchout", changes), clean)
        assert small.apart(found, wanted) < 1e-4


def test_a_network_without_attention_is_refused():
    with pytest.raises(StudyError, match="pna does not apply to this ResNet"):
        small.ours(small.source(small.resnet(), 32), keys_of("pna-patchout", {"steps": 1}), small.images(32))
