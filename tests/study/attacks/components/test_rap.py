"""RAP against its algorithm in a plain loop."""

from __future__ import annotations

import pytest
import torch

from study.attacks import Attack
from study.attacks.components.rap import ReversePerturbation
from study.attacks.presets import keys_of
from tests.study.attacks.components.point_oracles import (
    Pixels,
    assert_same,
    clipped,
    double,
    drawn,
    mean_one,
    ours,
    slope,
)


@pytest.mark.parametrize(("goal", "sign"), [("untargeted", 1), ("targeted", -1)])
def test_the_gradient_is_taken_at_the_worst_place(small_model, small_images, goal, sign):
    model, clean = Pixels(small_model), double(small_images)
    x, momentum = clean, torch.zeros_like(clean)
    for step in range(4):
        at = x
        if step >= 2:
            at = clipped(x + 12 * drawn("rap", step, 0), x, 12)
            for _ in range(4):
                at = clipped(at - 3 * slope(model, at, sign=sign).sign(), x, 12)
        momentum = momentum + mean_one(slope(model, at, sign=sign))
        x = clipped(x + 2 * momentum.sign(), clean)
    rule = {"rap": {"radius": 12, "inner_steps": 4, "inner_size": 3, "begin": 2}}
    assert_same(ours(model, keys_of("rap", {"steps": 4, "points": [rule]}), small_images, goal), x)


def test_the_late_start_costs_nothing_before_it():
    attack = Attack.model_validate(keys_of("rap", {}))
    assert [attack.gradients(steps, 1) for steps in (50, 100, 101, 400)] == [50, 100, 109, 2800]
    assert ReversePerturbation().calls(10) == (10, 80)
