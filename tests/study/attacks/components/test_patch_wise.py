"""Patch-wise steps against the algorithm in a plain loop, with torch's own convolution."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from study.attacks.components.patch_wise import PatchWise, around
from study.attacks.presets import keys_of
from tests.study.attacks.components.point_oracles import Pixels, assert_same, clipped, double, ours, slope


def kernel(width):
    weights = torch.ones(3, 1, width, width, dtype=torch.float64) / (width**2 - 1)
    weights[:, :, width // 2, width // 2] = 0
    return weights


@pytest.mark.parametrize(("width", "goal", "sign"), [(3, "untargeted", 1), (3, "targeted", -1), (5, "untargeted", 1)])
def test_what_exceeds_epsilon_moves_the_neighbours(small_model, small_images, width, goal, sign):
    model, clean = Pixels(small_model), double(small_images)
    x, total = clean, torch.zeros_like(clean)
    for _ in range(10):
        noise = 16 * slope(model, x, sign=sign).sign()
        total = total + noise
        beyond = (total.abs() - 16).clamp(min=0) * total.sign()
        mean = functional.conv2d(beyond, kernel(width), padding=width // 2, groups=3)
        # Sums of multiples of 16: what is below 1e-9 is a rounding of 0.
        spread = 16 * torch.where(mean.abs() < 1e-9, 0, mean).sign()
        total = total + spread
        x = clipped(x + noise + spread, clean)
    keys = keys_of("patch-wise", {"step": {"patch-wise": {"width": width}}})
    assert_same(ours(model, keys, small_images, goal), x)


def test_around_is_the_sum_without_the_pixel():
    values = torch.randn(2, 3, 7, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(around(values, 5), 24 * functional.conv2d(values, kernel(5), padding=2, groups=3))


def test_an_even_width_is_refused():
    with pytest.raises(ValueError, match="odd"):
        PatchWise(width=4)
