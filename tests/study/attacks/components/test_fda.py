"""FDA against the formula written out, place by place."""

from __future__ import annotations

import pytest
import torch

from tests.study.attacks.components.feature_networks import (
    BUDGET,
    SIZE,
    Net,
    climbed,
    drawn,
    features,
    gradient_of,
    moved,
    origin,
)

LAYERS = (1, 3, 5)
READ = [f"trunk.{layer}" for layer in LAYERS]


def sides(values, variant):
    """Which features of one image (C, H, W) are below and above the mean of their place."""
    below, above = torch.zeros_like(values), torch.zeros_like(values)
    for row in range(values.shape[1]):
        for column in range(values.shape[2]):
            mean = sum(values[channel, row, column] for channel in range(len(values))) / len(values)
            for channel in range(len(values)):
                one = float(values[channel, row, column])
                below[channel, row, column] = one < mean
                above[channel, row, column] = one > mean or (variant == "authors" and one == mean)
    return below, above


@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
@pytest.mark.parametrize("variant", ["paper", "authors"])
def test_is_the_formula(variant, goal):
    net = Net()
    known = {
        (layer, index): sides(one, variant)
        for layer in LAYERS
        for index, one in enumerate(features(net, origin(), layer).detach())
    }
    equal = sum(int((1 - below - above).sum()) for below, above in known.values())
    assert equal == 0 if variant == "authors" else equal > 0

    def loss(image):
        total = 0
        for layer in LAYERS:
            for index, one in enumerate(features(net, image, layer)):
                below, above = known[layer, index]
                total = total + torch.log((one * below).norm()) - torch.log((one * above).norm())
        return total / len(LAYERS)

    start = 9 * drawn().uniform((3, SIZE, SIZE), "cpu", "start")
    expected = climbed(gradient_of(loss), start=start)
    keys = BUDGET | {"start": "random", "objective": {"fda": {"read": READ, "variant": variant}}}
    assert (moved(net, keys, goal) - expected).abs().max() < 1e-4


def test_dead_features_have_no_gradient():
    """All features of the layers are 0: their logarithms are of the least number, not of 0."""
    net = Net()
    with torch.no_grad():
        for one in net.trunk:
            if isinstance(one, torch.nn.Conv2d):
                one.weight.zero_()
                one.bias.fill_(-1)
    assert torch.equal(moved(net, BUDGET | {"objective": {"fda": {"read": READ}}}), origin())
