"""TAP against the formula written out, with its penalty and without."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from study.attacks import Attack
from study.attacks.components.low_frequency import LowFrequency
from study.attacks.components.tap import TAP
from tests.study.attacks.components.feature_networks import (
    BUDGET,
    LABELS,
    Net,
    climbed,
    features,
    gradient_of,
    moved,
    origin,
)

LAYERS = (0, 3, 5)
READ = [f"trunk.{layer}" for layer in LAYERS]
WEIGHT, ETA = 0.05, 0.4


def compressed(values):
    """The root with the values' sign; at 0, where its slope is infinite, a constant."""
    found, some = torch.zeros_like(values), values != 0
    found[some] = values[some] / values[some].abs().sqrt()
    return found


def smoothed(delta):
    """The sum of |mean over 3 x 3 pixels|, each of them by its own sum; outside the image delta is 0."""
    padded = functional.pad(delta / 255, (1, 1, 1, 1))
    total = 0
    for row in range(delta.shape[2]):
        for column in range(delta.shape[3]):
            total = total + (padded[:, :, row : row + 3, column : column + 3].sum((2, 3)) / 9).abs().sum()
    return total


@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
def test_is_the_formula(goal):
    net = Net()
    start = {layer: compressed(features(net, origin(), layer).detach()) for layer in LAYERS}

    def loss(image):
        entropy = functional.cross_entropy(net(image), torch.from_numpy(LABELS), reduction="sum")
        total = -entropy if goal == "targeted" else entropy
        for layer in LAYERS:
            total = total + WEIGHT * (compressed(features(net, image, layer)) - start[layer]).square().sum()
        return total + ETA * smoothed(image - origin())

    expected = climbed(gradient_of(loss))
    keys = BUDGET | {
        "objective": {"tap": {"read": READ, "weight": WEIGHT}},
        "penalties": [{"low-frequency": {"weight": ETA}}],
    }
    found = moved(net, keys, goal)
    # At an edge the sums of the penalty can be 0, and then its slope is not one number.
    assert ((found - expected).abs() > 1e-4).double().mean() < 0.002
    assert (found - moved(net, keys | {"penalties": []}, goal)).abs().max() > 1
    without = keys | {"objective": {"tap": {"read": READ, "weight": 0.0}}}
    assert (found - moved(net, without, goal)).abs().max() > 1


def test_penalty_is_the_gradient_of_its_term():
    delta = torch.from_numpy(np.random.default_rng(1).normal(0, 5, (2, 3, 7, 7)))
    expected = torch.autograd.grad(0.2 * smoothed(delta.requires_grad_()), delta)[0]
    torch.testing.assert_close(LowFrequency(weight=0.2).gradient(delta.detach()), expected)
    # Pixels that cancel each other have no slope, whatever their sum rounds to.
    checks = torch.tensor([[1.6, -1.6], [-1.6, 1.6]]).repeat(4, 4)[None, None]
    wide = LowFrequency(size=9).gradient(functional.pad(checks, (4, 4, 4, 4)))
    assert wide[0, 0, 8, 8] == 0 or wide.abs().max() < 0.01


def test_a_box_has_a_centre():
    with pytest.raises(ValueError, match="must be odd"):
        LowFrequency(size=4)
    with pytest.raises(ValueError, match="must be odd"):
        Attack.model_validate(BUDGET | {"penalties": [{"low-frequency": {"size": 2}}]})


def test_a_feature_of_zero_has_no_slope():
    values = torch.tensor([[0.0, 4.0, -9.0]], requires_grad=True)
    moved_on = TAP().loss({"a": values}, {"a": torch.zeros(1, 3)}, torch.zeros(1, 4), torch.tensor([2]), "untargeted")
    (slope,) = torch.autograd.grad(moved_on.sum(), values)
    # sign(f) |f|^0.5 squared is |f|.
    torch.testing.assert_close(slope, 0.005 * torch.tensor([[0.0, 1.0, -1.0]]))
