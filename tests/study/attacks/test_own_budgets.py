"""Budgets that a component measures: images keep them, alone and together, and ids tell them apart."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from study.attacks import Attack, registry
from study.attacks.budget import all_distances
from study.attacks.kinds import BudgetRule
from study.attacks.loop import Engine, ImageBatch, craft
from study.planning.identity import recipe_identity
from tests.study.attacks.components.written_out import IDS, LABELS, PIXELS
from tests.study.attacks.own_parts.ball import Blurred, Sum

KEYS = {"step": "sign", "steps": 3, "step_size": 4}


class Weighted(BudgetRule):
    """The sum of changes, where `red` counts more: it has parameters, and the kind's own projection."""

    name: ClassVar[str] = "weighted-sum"

    red: float = 2.0

    def measure(self, delta, origin):
        sums = delta.abs().sum((2, 3))
        return self.red * sums[:, 0] + sums[:, 1] + sums[:, 2]


@pytest.fixture(autouse=True)
def _forget():
    yield
    for one in (Sum, Blurred, Weighted):
        registry.unregister(one)


def attack(rule, length, **keys):
    return Attack.model_validate({**KEYS, **keys, "budget": {"rule": rule, "length": length}})


def crafted(recipe, clean, rows=range(6)):
    rows = list(rows)
    given = ImageBatch(clean[rows], LABELS[rows], [IDS[row] for row in rows])
    return craft([PIXELS], recipe, "untargeted", given, key=("k",), engine=Engine(4, layout="contiguous"))


def sizes(rule, clean, made):
    origin = torch.from_numpy(clean).float()
    return rule.measure(torch.from_numpy(made).float() - origin, origin).numpy()


@pytest.mark.parametrize(
    ("rule", "length"), [(Sum(), 900.0), (Blurred(), 1.5), (Weighted(red=3.0), 800.0)], ids=lambda one: str(one)[:20]
)
def test_finished_images_keep_the_budget_and_use_it(small_images, rule, length):
    made = crafted(attack(rule, length), small_images)
    measured = sizes(rule, small_images, made.pixels)
    assert (measured <= length).all()
    assert (measured > 0.9 * length).all()
    assert made.linf.max() <= 12
    order = [5, 2, 0]
    np.testing.assert_array_equal(crafted(attack(rule, length), small_images, order).pixels, made.pixels[order])


def test_the_projection_of_the_sum_is_the_nearest_point(small_images):
    """Against a search of the threshold by halving, in double precision."""
    delta = 20 * torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    radius = torch.tensor([300.0, 2000.0, 1e6], dtype=torch.float64)
    found = Sum().project(delta, torch.zeros_like(delta), radius)
    for one, given, most in zip(found, delta, radius.tolist(), strict=True):
        low, high = 0.0, float(given.abs().max())
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if float((given.abs() - middle).clamp(min=0).sum()) > most else (low, middle)
        wanted = given if float(given.abs().sum()) <= most else given.sign() * (given.abs() - high).clamp(min=0)
        torch.testing.assert_close(one, wanted, rtol=0, atol=1e-6)


def test_a_sweep_has_each_length(small_images):
    made = crafted(attack(Sum(), [100.0, 400.0, 800.0], steps=1, step_size=6), small_images)
    measured = sizes(Sum(), np.concatenate([small_images] * 3), made.pixels).reshape(3, 6)
    assert (measured <= np.array([[100], [400], [800]])).all()
    assert (measured[1:] > measured[:-1]).all()


def test_ids_hold_the_rule_and_its_length():
    def identity(*given):
        return str(recipe_identity(attack(*given), ["a"]))

    one = identity(Weighted(), 5.0)
    assert identity(Weighted(red=2.0), 5.0) == one
    assert len({one, identity(Weighted(red=3.0), 5.0), identity(Weighted(), 6.0), identity(Sum(), 5.0)}) == 4


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"rule": "epsilon", "length": 8}, "the budget 'epsilon' is not given by its name here"),
        ({"rule": "nothing", "length": 8}, "there is no budget named 'nothing'"),
        ({"rule": {"python": "mine.py:Sum"}}, "`rule` and `length` need each other"),
        ({"length": 8}, "`rule` and `length` need each other"),
        ({"epsilon": 8, "rule": {"python": "mine.py:Sum"}, "length": 8}, "this one has epsilon and rule"),
    ],
)
def test_what_is_no_budget(budget, message):
    with pytest.raises(ValidationError, match=message):
        Attack.model_validate({**KEYS, "budget": budget})


@pytest.mark.parametrize(
    ("rule", "accepted"),
    [
        ("epsilon", "budget: {epsilon: <length>}"),
        ({"l2": {}}, "budget: {l2: <length>}"),
        ("rmsd", "budget: {rmsd: <length>}"),
        ("minimal", "budget: {minimal: {from: <length>, to: <length>, by: <length>}}"),
        ("none", "budget: none"),
    ],
)
def test_a_budget_with_a_key_is_not_given_by_its_name(rule, accepted):
    with pytest.raises(ValidationError) as refused:
        Attack.model_validate({**KEYS, "budget": {"rule": rule, "length": 8}})
    (detail,) = refused.value.errors()
    name = rule if isinstance(rule, str) else next(iter(rule))
    assert detail["msg"] == f"the budget '{name}' is not given by its name here"
    assert detail["ctx"]["accepted"] == accepted


def test_what_does_not_fit_a_rule():
    with pytest.raises(ValidationError, match="no step size follows from the budget 'sum'"):
        attack(Sum(), 900.0, step_size=None)
    with pytest.raises(ValidationError, match="a random start is uniform within an epsilon, L2 or RMSD budget"):
        attack(Sum(), 900.0, start="random")


def test_the_budgets_with_keys_measure_what_their_names_say(small_images):
    """The rules of today's keys, against the distances of finished images."""
    moved = np.clip(small_images.astype(int) + np.random.default_rng(1).integers(-9, 10, small_images.shape), 0, 255)
    rmsd, linf, l2 = all_distances(small_images, moved.astype(np.uint8)).T
    for name, wanted in (("epsilon", linf), ("rmsd", rmsd), ("l2", rmsd), ("none", linf), ("minimal", linf)):
        rule = registry.find("budget", name)()
        np.testing.assert_allclose(sizes(rule, small_images, moved), wanted, rtol=1e-6)
    numbers = small_images[0].size
    assert registry.find("budget", "l2")().radius(float(l2[0]), numbers) == pytest.approx(rmsd[0])
