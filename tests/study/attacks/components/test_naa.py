"""NAA against torchattack, and against the formula written out."""

from __future__ import annotations

import importlib

import pytest
import torch
import torchattack

from tests.study.attacks.components.feature_networks import (
    BUDGET,
    LABELS,
    LAYER,
    SIZE,
    Net,
    Unit,
    climbed,
    drawn,
    feature_gradient,
    features,
    gradient_of,
    moved,
    origin,
    probability,
    unit,
)


def attack(**more):
    return BUDGET | {"momentum": 1, "objective": {"naa": {"layer": LAYER, "points": 5} | more}}


def test_equals_torchattack(monkeypatch):
    """Their path has the points 0 to n - 1; with those from 1 to n, as in the paper, all pixels are ours."""
    net = Net()
    module = importlib.import_module("torchattack.naa")

    def theirs():
        found = torchattack.NAA(
            Unit(net), None, torch.device("cpu"), eps=9 / 255, steps=3, num_ens=5, feature_layer_cfg=f"net.{LAYER}"
        )
        return (255 * found(origin() / 255, torch.from_numpy(LABELS))).detach()

    found = moved(net, attack())
    assert (found - theirs()).abs().max() > 1
    monkeypatch.setattr(module, "range", lambda count: range(1, 6) if count == 5 else range(count), raising=False)
    assert (found - theirs()).abs().max() < 1e-4


@pytest.mark.parametrize("variant", ["paper", "authors"])
@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_is_the_formula(variant, gamma):
    net = Net(1)
    total = 0
    for point in range(1, 6):
        image = origin()
        if variant == "authors":
            image = image + 25.5 * drawn().normal((3, SIZE, SIZE), "cpu", f"naa.noise{point}")
        total = total + feature_gradient(net, image * point / 5, probability)
    weights = unit(total)
    black = features(net, torch.zeros_like(origin())).detach()

    def loss(image):
        attribution = weights * (features(net, image) - black)
        positive = attribution[attribution > 0].sum()
        return -(positive + gamma * attribution[attribution < 0].sum())

    expected = climbed(gradient_of(loss), momentum=1)
    found = moved(net, attack(variant=variant, gamma=gamma))
    assert (found - expected).abs().max() < 1e-4
    if (variant, gamma) != ("paper", 1.0):
        assert (found - moved(net, attack())).abs().max() > 1
