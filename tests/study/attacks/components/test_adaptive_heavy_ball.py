"""AdaMSI against its formula."""

from __future__ import annotations

import pytest
import torch

from tests.study.attacks.components.written_out import GOALS, PIXELS, attacked, clip, gradient


@pytest.mark.parametrize("goal", GOALS)
def test_adamsi_is_the_formula(small_images, goal):
    """Long et al. 2024: squares of all gradients, and a ball that carries on with the last move."""
    x = last = clean = torch.from_numpy(small_images).double()
    squares, before, alpha = [], torch.zeros(6, 1, 1, 1), 16 / 10
    rolled = 0.0
    for t in range(1, 11):
        g = 255 * gradient(PIXELS, x, goal)
        squares.append(g**2)
        root = (sum(squares) / t).sqrt() + 1e-16 / t**0.5
        weight = 0.6 * t**2 * g.abs().sum((1, 2, 3), keepdim=True)
        ball = before / (weight + 1) * (x - last)
        rolled = max(rolled, float(ball.abs().max()))
        x, last, before = clip(x + alpha * g / root + ball, clean), x, weight
    assert rolled > 0.5
    assert (attacked(PIXELS, "adamsi", {}, small_images, goal) - x).abs().max() < 1e-4
