"""Po+Trip against the formula written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from study.attacks.components.po_trip import PoTrip
from study.attacks.presets import keys_of
from tests.study.attacks.components.feature_networks import (
    BUDGET,
    LABELS,
    Net,
    climbed,
    gradient_of,
    moved,
    origin,
)

TRUE = np.array([7, 8, 9])


def poincare(logits, label, margin=1e-5):
    point = logits / logits.abs().sum()
    corner = torch.zeros_like(point)
    corner[label] = 1 - margin
    inside = (1 - (point**2).sum()) * (1 - (corner**2).sum())
    return torch.arccosh(1 + 2 * ((point - corner) ** 2).sum() / inside)


def cosine(logits, label):
    return logits[label].abs() / (logits**2).sum().sqrt()


def triplet(logits, true, target, gap):
    return torch.clamp(cosine(logits, true) - cosine(logits, target) + gap, min=0)


@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
def test_is_the_formula(goal):
    net, weight = Net(), 2.0

    def loss(image):
        total = 0
        for logits, label, true in zip(net(image), LABELS, TRUE, strict=True):
            if goal == "targeted":
                total = total - poincare(logits, label) - weight * triplet(logits, true, label, 0.007)
            else:
                total = total + poincare(logits, label)
        return total

    keys = BUDGET | {"objective": {"po-trip": {"weight": weight}}}
    found = moved(net, keys, goal, true=TRUE)
    assert (found - climbed(gradient_of(loss))).abs().max() < 1e-4
    if goal == "targeted":
        assert (found - moved(net, keys, goal, true=(TRUE + 1) % 10)).abs().max() > 1


def test_float32_keeps_the_distance_near_the_border():
    """The target's point lies at 0.99999 of the border: 1 - |v|^2 as a difference would lose three digits."""
    logits = torch.randn(4, 1000, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([1, 2, 3, 4])
    found = PoTrip().loss({}, {}, logits, labels, "untargeted")
    expected = torch.stack([poincare(one, label) for one, label in zip(logits.double(), labels, strict=True)])
    torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=0)


def test_triplet_is_off_where_the_target_leads():
    logits = torch.tensor([[0.0, 5.0, 1.0]])
    target, true = torch.tensor([1]), {"true": torch.tensor([2])}
    ahead = PoTrip(weight=10.0).loss({}, true, logits, target, "targeted")
    alone = PoTrip(weight=0.0).loss({}, true, logits, target, "targeted")
    assert ahead == alone
    behind = PoTrip(weight=10.0).loss({}, {"true": torch.tensor([1])}, logits, torch.tensor([2]), "targeted")
    expected = alone.new_tensor(4 / math.sqrt(26) + 0.007)
    nothing = PoTrip(weight=0.0).loss({}, true, logits, torch.tensor([2]), "targeted")
    torch.testing.assert_close(nothing - behind, 10 * expected[None])


def test_preset_adds_gradients_up_as_they_are():
    """Momentum without a norm, for gradients whose size grows near the target (the paper's noise curing)."""
    net = Net()
    keys = keys_of("po-trip", BUDGET | {"diversity": None, "kernel": None})

    def loss(image):
        return sum(
            -poincare(logits, label) - 0.01 * triplet(logits, true, label, 0.007)
            for logits, label, true in zip(net(image), LABELS, TRUE, strict=True)
        )

    once = gradient_of(loss)
    total = [torch.zeros_like(origin())]

    def summed(image):
        total[0] = total[0] + once(image)
        return total[0]

    assert (moved(net, keys, "targeted", true=TRUE) - climbed(summed)).abs().max() < 1e-4
