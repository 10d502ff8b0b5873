"""FFT against the formula written out, from the image of a first stage that is our own attack."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from study.attacks import Attack
from study.attacks.loop import Engine, ImageBatch, craft
from tests.study.attacks.components.feature_networks import (
    BUDGET,
    IDS,
    KEY,
    LABELS,
    LAYER,
    SIZE,
    Net,
    clean,
    climbed,
    drawn,
    feature_gradient,
    features,
    gradient_of,
    moved,
    origin,
    unit,
)

FIRST = {"objective": "logit", "step": "sign", "steps": 2, "momentum": 1}
TRUE = np.array([7, 8, 9])


def first_stage(net, goal):
    given = ImageBatch(clean(), LABELS, IDS, own=TRUE if goal == "targeted" else None)
    engine = Engine(batch=3, layout="contiguous")
    attack = Attack.model_validate(FIRST | {"epsilon": 9})
    made = craft([net], attack, goal, given, key=(*KEY, "first stage"), engine=engine)
    assert made.linf.max() == 9
    return torch.from_numpy(made.pixels).double()


def aggregated(net, image, labels, stream):
    total = 0
    for number in range(3):
        kept = drawn().uniform((3, SIZE, SIZE), "cpu", f"fft.{stream}{number}") >= 2 * 0.3 - 1
        total = total + feature_gradient(net, image * kept, lambda logits, index: logits[0, labels[index]])
    return unit(total)


@pytest.mark.parametrize("goal", ["targeted", "untargeted"])
def test_is_the_formula(goal):
    net = Net()
    first = first_stage(net, goal)
    true = TRUE if goal == "targeted" else LABELS
    target, clear = aggregated(net, first, LABELS, "first"), aggregated(net, origin(), true, "clean")
    weights = unit(target - 0.2 * clear) if goal == "targeted" else -unit(target + 0.2 * clear)
    ascent = gradient_of(lambda image: (weights * features(net, image)).sum())
    expected = climbed(ascent, size=1.0, momentum=1, start=first - origin())
    keys = BUDGET | {
        "step_size": 1,
        "momentum": 1,
        "objective": {"fft": {"layer": LAYER, "masks": 3}},
        "start": "first-stage",
        "first": FIRST,
    }
    found = moved(net, keys, goal, true=TRUE if goal == "targeted" else None)
    assert (found - expected).abs().max() < 1e-4
    assert (found - moved(net, keys | {"start": None}, goal, true=TRUE)).abs().max() > 1
    assert 0 < (found - first).abs().max() <= 3


def test_a_start_at_the_first_stage_needs_one():
    with pytest.raises(ValueError, match="`first-stage` needs a `first` stage"):
        Attack.model_validate(BUDGET | {"start": "first-stage"})
