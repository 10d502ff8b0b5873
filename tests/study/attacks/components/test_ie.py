"""IE against its formula in a plain loop, with and without momentum's own normalisation."""

from __future__ import annotations

import pytest
import torch

from study.attacks.presets import keys_of
from tests.study.attacks.components.point_oracles import (
    Pixels,
    assert_same,
    clipped,
    double,
    mean_one,
    ours,
    slope,
)


@pytest.mark.parametrize("name", ["ie", "mi+ie"])
def test_the_mean_of_here_and_a_step_further(small_model, small_images, name):
    model, clean = Pixels(small_model), double(small_images)
    x, momentum = clean, torch.zeros_like(clean)
    for _ in range(10):
        here = mean_one(slope(model, x))
        there = mean_one(slope(model, x + 1.6 * here))
        mean = (here + there) / 2
        momentum = momentum + (mean if name == "ie" else mean_one(mean))
        x = clipped(x + 1.6 * momentum.sign(), clean)
    assert_same(ours(model, keys_of(name, {}), small_images), x)
