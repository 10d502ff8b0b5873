"""EMI against its formula in a plain loop."""

from __future__ import annotations

import numpy as np
import torch

from study.attacks.components.emi import EnhancedMomentum
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


def test_gradients_along_the_last_mean_gradient(small_model, small_images):
    model, clean = Pixels(small_model), double(small_images)
    x, momentum, last = clean, torch.zeros_like(clean), torch.zeros_like(clean)
    for _ in range(10):
        places = [slope(model, x + float(factor) * 1.6 * last) for factor in np.linspace(-7, 7, 11)]
        last = mean_one(sum(places) / 11)
        momentum = momentum + last
        x = clipped(x + 1.6 * momentum.sign(), clean)
    assert_same(ours(model, keys_of("emi", {}), small_images), x)


def test_one_sample_is_mi(small_model, small_images):
    model = Pixels(small_model)
    alone = ours(model, keys_of("emi", {"points": [{"emi": {"samples": 1}}]}), small_images)
    assert torch.equal(alone, ours(model, keys_of("mi", {}), small_images))


def test_each_place_has_a_number_of_its_own():
    """Views are drawn anew for each: they see the number."""
    asked = []

    class Step:
        origin, size = torch.zeros(1, 3, 2, 2), 2.0

        @staticmethod
        def gradient(image, sample, moved):
            asked.append((sample, float(moved.mean())))
            return torch.ones_like(image)

    state = {}
    for _ in range(2):
        EnhancedMomentum(samples=5, reach=4).gradient(torch.zeros(1, 3, 2, 2), Step, None, state)
    assert asked == [*((sample, 0) for sample in range(5)), *enumerate([-8, -4, 0, 4, 8])]
