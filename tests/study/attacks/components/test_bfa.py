"""BFA against torchattack."""

from __future__ import annotations

import torch
import torchattack

from tests.study.attacks.components.feature_networks import (
    BUDGET,
    LABELS,
    LAYER,
    Net,
    Unit,
    climbed,
    feature_gradient,
    features,
    gradient_of,
    moved,
    origin,
    probability,
    unit,
)

LENGTH = 2.0
"""In images of 0..1; the paper's 28 is for 224 x 224 pixels."""


def attack(**more):
    objective = {"bfa": {"layer": LAYER, "images": 4, "length": 255 * LENGTH} | more}
    return BUDGET | {"momentum": 1, "objective": objective}


def theirs(net, targeted=False):
    found = torchattack.BFA(
        *(Unit(net), None, torch.device("cpu")), eps=9 / 255, steps=3, eta=LENGTH, num_ens=4,
        feature_layer_cfg=f"net.{LAYER}", num_classes=10, targeted=targeted,
    )  # fmt: skip
    return (255 * found(origin() / 255, torch.from_numpy(LABELS))).detach()


def test_equals_torchattack():
    net = Net()
    found = moved(net, attack())
    assert (found - theirs(net)).abs().max() < 1e-4
    assert (found - moved(net, attack(length=1.0))).abs().max() > 1
    assert (moved(net, attack(), "targeted") - theirs(net, targeted=True)).abs().max() < 1e-4


def test_is_the_formula_for_the_probability():
    net = Net(1)
    image, total = origin(), 0
    for _ in range(4):
        loss = gradient_of(lambda one: -net(one).log_softmax(-1)[torch.arange(3), LABELS].sum())
        image = origin() + 255 * LENGTH * unit(loss(image))
        total = total + feature_gradient(net, image, probability)
    weights = unit(total)
    expected = climbed(gradient_of(lambda one: -(weights * features(net, one)).sum()), momentum=1)
    assert (moved(net, attack(score="probability")) - expected).abs().max() < 1e-4
