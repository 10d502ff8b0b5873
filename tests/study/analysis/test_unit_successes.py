"""Successes of one unit, counted from its answers, are those of a query on its rows."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from study.analysis.rates import succeeded
from study.analysis.unit_successes import successes
from study.attacks.presets import keys_of
from study.attacks.recipe import Attack
from study.images.selection import Clean, Selected
from study.results.schema import PixelDistances, TargetAnswers, UnitResult, table

NAMES = ("cat", "dog", "car", "tree")
ATTACKS = {
    "one point": ("mi", {}),
    "checkpoints": ("mi", {"steps": 10, "checkpoints": [2, 5]}),
    "budgets": ("fgsm", {"budget": {"epsilon": [4, 8, 16]}}),
    "minimal": ("fgsm", {"budget": {"minimal": {"from": 1, "to": 4, "by": 1}}}),
}


def result_of(draw, attack, goal):
    """A unit on a network, on a network without answers, and on a service."""
    preset, more = ATTACKS[attack]
    keys = keys_of(preset, more)
    if "budget" in more:
        keys.pop("epsilon", None)
    recipe = Attack.model_validate(keys)
    images = tuple(
        Selected(
            f"{number}.png",
            draw.randrange(4),
            draw.randrange(4),
            "",
            {
                "net": Clean((draw.randrange(4),), (1.0,)),
                "service": Clean((), (), tuple(draw.sample(NAMES, 2)), (0.5, 0.4)),
            },
        )
        for number in range(draw.randrange(1, 5))
    )
    count = len(images) * (1 if recipe.budget.minimal else len(recipe.scored_points))
    craft = SimpleNamespace(
        id="a-0", sources=("net",), attack="a", goal=goal, seed=0, recipe=recipe, points=recipe.scored_points,
        relations={"net": "white", "service": "black"},
    )  # fmt: skip
    unit = SimpleNamespace(id="a-0.0000-1", craft=craft, shard=SimpleNamespace(images=images))
    moved = PixelDistances(*np.random.default_rng(draw.randrange(99)).random((3, count)))
    top5 = np.array([draw.sample(range(4), 4) for _ in range(count)], np.int32)
    budgets = np.full(count, 3.5) if recipe.budget.minimal else None
    answers = [
        TargetAnswers("net", top5, np.full((count, 4), 0.25, np.float32), budgets=budgets),
        TargetAnswers(
            "service",
            np.empty((count, 0), np.int32),
            np.empty((count, 0), np.float32),
            budgets=budgets,
            names=tuple(tuple(draw.sample(NAMES, draw.randrange(3))) for _ in range(count)),
            scores=((),) * count,
        ),
    ]
    return UnitResult(unit, moved, answers, {"service": {label: (NAMES[label],) for label in range(4)}})


def queried(result):
    rows = pl.DataFrame(table([result]))
    steps, level = result.unit.craft.recipe.scored_points[-1]
    last = rows.filter(pl.col("steps") == steps)
    last = last if level is None else last.filter(pl.col("budget") == level)
    counted = last.group_by("target").agg(succeeded().sum().alias("hits"), pl.len())
    return {target: (hits or 0, images) for target, hits, images in counted.iter_rows()}


@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_the_same_as_a_query(attack, goal):
    for seed in range(8):
        result = result_of(random.Random(seed), attack, goal)
        assert successes(result) == queried(result)
        assert list(successes(result)) == ["net", "service"]


def test_rows_of_many_units_are_those_of_each():
    draw = random.Random(1)
    results = [result_of(draw, attack, goal) for attack in ATTACKS for goal in ("untargeted", "targeted")]
    frames = [pl.DataFrame(table([one])) for one in results]
    assert [frame.height for frame in frames] == [one.rows for one in results]
    assert pl.DataFrame(table(results)).equals(pl.concat(frames))
    assert table([]).num_rows == 0
