"""DTA against its algorithm."""

from __future__ import annotations

import pytest
import torch

from tests.study.attacks.components.written_out import GOALS, PIXELS, attacked, clip, gradient, n


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("decay", [0.0, 0.8])
def test_dta_is_the_authors_algorithm(small_images, goal, decay):
    """Yang et al. 2023: K inner steps of alpha / K; each looks ahead along the inner momentum."""
    x = clean = torch.from_numpy(small_images).double()
    outer, alpha, many = torch.zeros_like(clean), 16 / 5, 4
    for _ in range(5):
        inner, place, total = outer, x, torch.zeros_like(clean)
        for _ in range(many):
            inner = n(gradient(PIXELS, place + alpha * inner, goal)) + decay * inner
            total = total + inner / many
            place = clip(place + alpha / many * inner.sign(), clean)
        outer = outer + total
        x = clip(x + alpha * outer.sign(), clean)
    keys = {"steps": 5, "points": [{"direction-tuning": {"inner": many, "decay": decay}}]}
    assert (attacked(PIXELS, "dta", keys, small_images, goal) - x).abs().max() < 1e-4
