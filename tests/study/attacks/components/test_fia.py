"""FIA against torchattack with the same masks, and against the formula written out."""

from __future__ import annotations

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
    logit,
    moved,
    origin,
    unit,
)

SHARE = 0.3


def masks(count):
    """Our masks: a value is kept with probability 0.7."""
    shape = (3, SIZE, SIZE)
    return [(drawn().uniform(shape, "cpu", f"fia.mask{number}") >= 2 * SHARE - 1).double() for number in range(count)]


def attack(**more):
    return BUDGET | {"momentum": 1, "objective": {"fia": {"layer": LAYER, "masks": 4} | more}}


def test_masks_drop_their_share():
    kept = torch.stack(masks(30)).mean()
    assert abs(kept - 0.7) < 0.01


def test_equals_torchattack_with_the_same_masks(monkeypatch):
    net = Net()
    theirs = torchattack.FIA(
        Unit(net), None, torch.device("cpu"), eps=9 / 255, steps=3, num_ens=4, feature_layer_cfg=f"net.{LAYER}"
    )
    ready = iter(masks(4))
    monkeypatch.setattr(theirs, "drop_pixels", lambda image: (image * next(ready)).requires_grad_())
    expected = 255 * theirs(origin() / 255, torch.from_numpy(LABELS))
    found = moved(net, attack(score="probability"))
    assert (found - expected).detach().abs().max() < 1e-4
    assert (found - origin()).abs().mean() > 5


@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
def test_is_the_formula(goal):
    """The paper's score is the logit; a targeted attack raises what an untargeted one lowers."""
    net = Net(1)
    weights = unit(sum(feature_gradient(net, origin() * mask, logit) for mask in masks(4)))
    sign = 1 if goal == "targeted" else -1
    expected = climbed(gradient_of(lambda image: sign * (weights * features(net, image)).sum()), momentum=1)
    found = moved(net, attack(), goal)
    assert (found - expected).abs().max() < 1e-4
    assert (found - moved(net, attack(score="probability"), goal)).abs().max() > 1
