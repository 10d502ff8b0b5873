"""Sweeps, and the best attack within a number of gradients, against a naive loop over the rows of a real run."""

from __future__ import annotations

import statistics

import polars as pl
import pytest

from study import analysis
from study.errors import StudyError
from tests.study.analysis.conftest import grouped


def values(frame: pl.DataFrame, **where) -> list[tuple[float, float]]:
    return frame.filter(**where).select("x", "success").rows()


def rate(loop, **where) -> float:
    return statistics.fmean(row["hit1"] for row in loop if all(row[key] == value for key, value in where.items()))


@pytest.mark.parametrize("along", ["steps", "gradients"])
def test_sweep_along_steps(scanned, spec, loop, along):
    one = {"sources": "a+b", "goal": "untargeted", "target": "c", "attack": "mi"}
    each = 2 if along == "gradients" else 1
    found = values(analysis.sweep(scanned, spec, along), **one)
    assert found == [(each * steps, rate(loop, steps=steps, **one)) for steps in (1, 2, 3)]


@pytest.mark.parametrize("along", ["budget", "budget.epsilon"])
def test_sweep_along_budgets(scanned, spec, loop, along):
    one = {"sources": "c", "goal": "targeted", "target": "b", "attack": "fgsm"}
    found = values(analysis.sweep(scanned, spec, along), **one)
    assert found == [(budget, rate(loop, budget=budget, **one)) for budget in (4, 8, 16)]


def test_sweep_along_a_number_of_the_recipes(scanned, spec, loop):
    found = analysis.sweep(scanned, spec, "skip_gradient.gamma")
    assert set(found["line"]) == {"sgm-half"}
    for target in "abc":
        one = {"sources": "c", "goal": "untargeted", "target": target}
        assert values(found, **one) == [
            (0.2, rate(loop, attack="sgm-fifth", **one)), (0.5, rate(loop, attack="sgm-half", **one)),
        ]  # fmt: skip
    assert found.columns[:7] == ["sources", "goal", "target", "line", "attack", "steps", "level"]


def test_unknown_number(scanned, spec):
    for along in ("skip_gradient.gama", "objective", "nesterov", "smoothing.sigma"):
        with pytest.raises(StudyError, match="no attack has a numeric parameter"):
            analysis.sweep(scanned, spec, along)


@pytest.mark.parametrize("gradients", [0, 1, 2, 3, 100])
def test_best_within(scanned, spec, loop, gradients):
    ours = analysis.best_within(scanned, spec, gradients)
    affordable = [row for row in loop if row["gradients"] <= gradients]
    for row in affordable:
        row["level"] = None if row["attack"] == "fg-minimal" else row["budget"]
    cells = grouped(affordable, "sources", "goal", "target")
    assert {(row["sources"], row["goal"], row["target"]) for row in ours.to_dicts()} == set(cells)
    for row in ours.to_dicts():
        points = grouped(cells[row["sources"], row["goal"], row["target"]], "gradients", "attack", "steps", "level")
        best = min(points, key=lambda point: (-statistics.fmean(one["hit1"] for one in points[point]), *point[:3], point[3] or 0))  # fmt: skip # noqa: E501
        assert (row["gradients"], row["attack"], row["steps"], row["level"]) == best
        assert row["success"] == pytest.approx(statistics.fmean(one["hit1"] for one in points[best]))


def test_ties_go_to_fewer_gradients(by_hand, spec):
    rows = by_hand(
        {"attack": "pgd", "gradients": 2, "steps": 2}, {"attack": "mi", "gradients": 3, "steps": 3},
        {"attack": "fgsm", "gradients": 2, "steps": 2},
    )  # fmt: skip
    assert analysis.best_within(rows, spec, 9)["attack"].to_list() == ["fgsm"]
    assert analysis.best_within(rows, spec, 9, by=())["attack"].to_list() == ["fgsm"]
    assert analysis.best_within(rows, spec, 1).is_empty()
    with pytest.raises(StudyError, match="the number of gradients cannot be -1"):
        analysis.best_within(rows, spec, -1)
