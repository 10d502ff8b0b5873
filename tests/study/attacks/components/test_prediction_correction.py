"""PC-I-FGSM and PC-MI-FGSM against their formulas."""

from __future__ import annotations

import pytest
import torch

from tests.study.attacks.components.written_out import GOALS, PIXELS, attacked, clip, gradient, n


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize(("preset", "decay"), [("pc-i", 0), ("pc-mi", 1)])
@pytest.mark.parametrize("predictions", [1, 3])
def test_it_is_the_printed_algorithm(small_images, preset, decay, goal, predictions):
    """Wan and Huang 2023: predict along the gradient, correct by the gradient there."""
    x = clean = torch.from_numpy(small_images).double()
    momentum, alpha = torch.zeros_like(clean), 16 / 5
    for _ in range(5):
        last = gradient(PIXELS, x, goal)
        total, place = n(last), x
        for _ in range(predictions):
            place = clip(place + alpha * last.sign(), clean)
            last = gradient(PIXELS, place, goal)
            total = total + n(last) / predictions
        momentum = decay * momentum + n(total)
        x = clip(x + alpha * momentum.sign(), clean)
    keys = {"steps": 5, "points": [{"prediction-correction": predictions}]}
    assert (attacked(PIXELS, preset, keys, small_images, goal) - x).abs().max() < 1e-4
