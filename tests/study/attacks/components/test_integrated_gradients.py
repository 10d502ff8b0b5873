"""MIG and TAIG against torchattack and their formulas."""

from __future__ import annotations

import pytest
import torch
from torchattack import MIG

from tests.study.attacks.components.written_out import (
    GOALS,
    LABELS,
    PIXELS,
    SIGN,
    attacked,
    clip,
    gradient,
    n,
    uniform,
)  # fmt: skip


class Unit(torch.nn.Module):
    """What torchattack calls: images in 0..1."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x * 255)


def probability(logits, goal):
    return SIGN[goal] * logits.softmax(-1).gather(1, torch.from_numpy(LABELS)[:, None]).sum()


def logit(logits, goal):
    return SIGN[goal] * logits.gather(1, torch.from_numpy(LABELS)[:, None]).sum()


@pytest.mark.parametrize("goal", GOALS)
def test_mig_equals_torchattack_where_points_are_weighted_as_there(small_images, goal):
    """torchattack's goals are exchanged: untargeted, it raises the probability of the label that it is given."""
    exchanged, here = goal == "untargeted", torch.device("cpu")
    theirs = MIG(Unit(PIXELS), eps=16 / 255, steps=4, s_factor=6, targeted=exchanged, device=here)
    images = theirs(torch.from_numpy(small_images).double() / 255, torch.from_numpy(LABELS)).detach() * 255
    keys = {"steps": 4, "points": [{"integrated-gradients": {"samples": 6, "weighting": "scaled"}}]}
    assert (attacked(PIXELS, "mig", keys, small_images, goal) - images).abs().max() < 1e-4


@pytest.mark.parametrize("goal", GOALS)
def test_mig_is_the_printed_algorithm(small_images, goal):
    """Ma et al. 2023: the integral from black to the image as a sum of 20 gradients."""
    x = clean = torch.from_numpy(small_images).double()
    momentum = torch.zeros_like(clean)
    for _ in range(2):
        total = sum(gradient(PIXELS, x * k / 20, goal, probability) for k in range(1, 21))
        momentum = momentum + n(x * total / 20)
        x = clip(x + 8 * momentum.sign(), clean)
    assert (attacked(PIXELS, "mig", {"steps": 2}, small_images, goal) - x).abs().max() < 1e-4


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize(("preset", "noise"), [("taig", 0), ("taig-r", 1)])
def test_taig_is_the_authors_algorithm(small_images, preset, noise, goal):
    """Huang and Kong 2022: 21 points from black to the image, for TAIG-R with noise, and the way from first to last."""
    x = clean = torch.from_numpy(small_images).double()
    for step in range(2):
        places = [x * k / 20 + noise * 8 * uniform((3, 12, 12), "integrated-gradients", step, k) for k in range(21)]
        total = sum(gradient(PIXELS, place, goal, logit) for place in places)
        x = clip(x + ((places[-1] - places[0]) * total / 21).sign(), clean, 8)
    assert (attacked(PIXELS, preset, {"steps": 2}, small_images, goal) - x).abs().max() < 1e-4
