"""Dual examples against their formula."""

from __future__ import annotations

import pytest
import torch

from study.attacks import Attack
from study.attacks.presets import keys_of
from tests.study.attacks.components.written_out import GOALS, PIXELS, attacked, clip, gradient, n, uniform


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("path", ["i-fgsm", "fgsm"])
def test_the_preset_is_the_printed_formula(small_images, path, goal):
    x = clean = torch.from_numpy(small_images).double()
    places, momentum = {}, torch.zeros_like(clean)
    for step in range(4):
        total = torch.zeros_like(clean)
        for number in range(3):
            if path == "fgsm" or number not in places:
                places[number] = clip(clean + 16 * uniform((3, 12, 12), "dual", step, number), clean)
            g = gradient(PIXELS, places[number], goal)
            total += g
            places[number] = clip(places[number] + 4 * g.sign(), clean)
        momentum = momentum + n(total / 3)
        x = clip(x + 4 * momentum.sign(), clean)
    keys = {"steps": 4, "points": [{"dual": {"examples": 3, "path": path}}]}
    assert (attacked(PIXELS, "dual", keys, small_images, goal) - x).abs().max() < 1e-4


def test_it_needs_an_epsilon_and_stands_last():
    with pytest.raises(ValueError, match="needs a budget with an epsilon"):
        Attack.model_validate(keys_of("dual", {"budget": {"rmsd": 5}}))
    with pytest.raises(ValueError, match="put it last"):
        Attack.model_validate(keys_of("dual", {"points": ["dual", "pre_gradient"]}))
