"""The parts of TA-Bench's back-end, and the whole, written out image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchvision.transforms import functional as transforms

from study.attacks.components.dropped_patches import DroppedPatches
from study.attacks.components.random_shift import RandomShift
from study.attacks.kinds import StepDraws, ViewContext
from study.attacks.presets import keys_of
from study.reproducibility.rng import Streams
from tests.study.attacks.components.transforms_by_hand import IDS, KEY, LABELS, Draws, by_hand, in_double, loss, ours


def view_of(component, image, origin, step=0):
    draws = StepDraws(Streams(KEY, IDS[: len(image)]), component.stream, "cpu", step)
    return component.make(
        image,
        ViewContext(
            copy=0,
            draws=draws,
            true=LABELS,
            wanted=LABELS,
            pool=None,
            origin=origin,
            step=step,
            steps=1,
            epsilon=8.0,
            gradient=torch.zeros_like,
        ),
    )


@pytest.mark.parametrize("variant", ["paper", "authors"])
def test_patches_of_the_perturbation_are_dropped(variant):
    """On 14 x 14 pixels each, for images of 224; all of it or none; the gradient is that of the identity."""
    origin = torch.zeros(3, 1, 224, 224)
    image = torch.full_like(origin, 5.0).requires_grad_(True)
    view = view_of(DroppedPatches(variant=variant), image, origin)
    patches = (view.detach() / 5).unfold(2, 14, 14).unfold(3, 14, 14).flatten(4).flatten(2, 3)[:, 0]
    assert ((patches.mean(2) == 0) | (patches.mean(2) == 1)).all()
    kept = [int(one) for one in patches.mean(2).sum(1)]
    expected = [128] * 3
    if variant == "authors":
        streams = Streams(KEY, IDS[:3])
        expected = [len({word % 256 for word in words}) for words in streams.integers(128, "dropped-patches").tolist()]
        assert all(85 < count < 118 for count in expected)
    assert kept == expected
    assert len({tuple(one) for one in patches.mean(2).tolist()}) == 3
    (through,) = torch.autograd.grad(view.sum(), image)
    assert (through == 1).all()


def test_patches_cover_sizes_that_the_grid_does_not_divide():
    origin = torch.zeros(4, 1, 20, 20)
    view = view_of(DroppedPatches(kept=1, grid=3), torch.ones_like(origin), origin)
    assert set(view.sum((1, 2, 3)).tolist()) <= {36.0, 42.0, 49.0}
    everything = view_of(DroppedPatches(kept=9, grid=3), torch.ones_like(origin), origin)
    assert (everything == 1).all()


@pytest.mark.parametrize("variant", ["paper", "authors"])
def test_movements_are_torchvisions(variant):
    image = torch.rand(6, 2, 11, 13, generator=torch.Generator().manual_seed(0))
    seen = set()
    for step in range(40):
        moved = view_of(RandomShift(variant=variant), image, image, step)
        for row, one in enumerate(moved):
            down, right = Draws(row, "random-shift").words(2, step=step)
            if variant == "paper":
                down, right = down % 7 - 3, right % 7 - 3
            else:
                down, right = (round(4 * (word / 2**63 - 1)) for word in (down, right))
            seen |= {down, right}
            expected = transforms.affine(image[row], 0, [right, down], 1, [0.0])
            assert torch.equal(one, expected)
    assert seen == set(range(-3, 4) if variant == "paper" else range(-4, 5))


def test_the_back_end_is_the_printed_formula(small_model, small_images):
    """Three steps; patches of 1 x 1 pixels would be too many for 12 x 12, hence a grid of 4 x 4."""
    model = in_double(small_model.double())
    ahead = {}

    def view(image, origin, row, step):
        kept = np.argsort(Draws(row, "dropped-patches").words(16, step=step))[:7]
        mask = torch.zeros(16)
        mask[kept.tolist()] = 1
        mask = mask.view(1, 1, 4, 4).repeat_interleave(3, 2).repeat_interleave(3, 3)
        seen = image - (image - origin).detach() * (1 - mask)
        seen = seen + 8 * Draws(row, "uniform-noise").uniform((3, 12, 12), step=step)
        down, right = (word % 7 - 3 for word in Draws(row, "random-shift").words(2, step=step))
        seen = transforms.affine(seen, 0, [right, down], 1, [0.0])
        chance, extent, top, left = Draws(row, "diversity").words(4, step=step)
        if chance / 2**64 >= 0.5:
            return seen
        inner = 9 + extent % 3
        seen = functional.interpolate(seen, (inner, inner), mode="bilinear")
        top, left = top % (13 - inner), left % (13 - inner)
        return functional.pad(seen, (left, 12 - inner - left, top, 12 - inner - top))

    def gradient(image, row, step):
        origin = torch.from_numpy(small_images[row : row + 1]).float()
        leaf = (image + ahead.get(row, 0)).requires_grad_(True)
        (found,) = torch.autograd.grad(loss(model, view(leaf, origin, row, step), LABELS[row]), leaf)
        ahead[row] = 2 * found / found.abs().mean()
        return found

    views = keys_of("ta-bench", {})["views"]
    views = [
        {"dropped-patches": {"kept": 7, "grid": 4}},
        *views[1:3],
        {"diversity": views[3]["diversity"] | {"low": 0.75}},
    ]
    keys = keys_of("ta-bench", {"steps": 3, "step_size": 2, "views": views})
    expected = by_hand(small_images, gradient, steps=3, epsilon=8, size=2)
    torch.testing.assert_close(ours(model, keys, small_images), expected, rtol=0, atol=1e-4)
    small_model.float()
