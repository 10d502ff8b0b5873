"""Wide frames and leave-one-out diagonals against a naive loop over the rows of a real run."""

from __future__ import annotations

import statistics

import pytest

from study import analysis
from study.errors import StudyError
from tests.study.analysis.conftest import grouped

KEYS = ("attack", "sources", "steps", "budget")


@pytest.mark.parametrize(("experiment", "goal"), [("single", "targeted"), ("gamma", None), ("ensembles", None)])
def test_transfer_matrix(scanned, spec, loop, experiment, goal):
    one = spec.experiments[experiment]
    sets = ["+".join(sources) for sources in spec.source_sets(one)]
    wanted = [
        row
        for row in loop
        if row["attack"] in one.attacks and row["sources"] in sets and row["goal"] == (goal or "untargeted")
        and row["seed"] in spec.seeds_of(one)
    ]  # fmt: skip
    cells = grouped(wanted, *KEYS)
    ours = analysis.transfer_matrix(scanned, spec, experiment, goal=goal)
    assert ours.columns == ["attack", "sources", "steps", "level", "seeds", "images", "rmsd", "a", "b", "c"]
    assert ours.height == len(cells)
    order = [(one.attacks.index(row["attack"]), row["steps"], row["level"], sets.index(row["sources"])) for row in ours.to_dicts()]  # fmt: skip # noqa: E501
    assert order == sorted(order)
    for row in ours.to_dicts():
        cell = cells[row["attack"], row["sources"], row["steps"], row["level"]]
        assert (row["seeds"], row["images"]) == (len(spec.seeds_of(one)), 8)
        assert sum(one["target"] == "a" for one in cell) == row["seeds"] * row["images"]
        assert row["rmsd"] == pytest.approx(statistics.fmean(one["rmsd"] for one in cell))
        for target in "abc":
            assert row[target] == statistics.fmean(one["hit1"] for one in cell if one["target"] == target)


def test_leave_one_out(scanned, spec, loop):
    ours = analysis.leave_one_out(scanned, spec, "ensembles")
    assert [(row["target"], row["sources"], row["steps"]) for row in ours.to_dicts() if row["steps"] == 1] == [
        ("a", "b+c", 1), ("b", "a+c", 1), ("c", "a+b", 1),
    ]  # fmt: skip
    assert ours.height == 9
    cells = grouped(loop, "sources", "attack", "goal", "steps", "target")
    for row in ours.to_dicts():
        cell = cells[row["sources"], "mi", "untargeted", row["steps"], row["target"]]
        assert row["success"] == statistics.fmean(one["hit1"] for one in cell)
        assert row["relation"] == "black"
    assert analysis.leave_one_out(scanned, spec, "gamma").is_empty()


def test_searches_have_no_level(scanned, spec):
    found = analysis.transfer_matrix(scanned, spec, "search", goal="untargeted")
    assert found["level"].to_list() == [None]
    assert found["images"].to_list() == [8]
    assert found["rmsd"].to_list() == [None]


@pytest.mark.parametrize(
    ("experiment", "goal", "match"),
    [("singel", None, "no experiment 'singel'"), ("single", None, "two goals"), ("gamma", "targeted", "no goal")],
)
def test_unknown_experiments_and_goals(scanned, spec, experiment, goal, match):
    with pytest.raises(StudyError, match=match):
        analysis.transfer_matrix(scanned, spec, experiment, goal=goal)


def test_no_rows(by_hand, spec):
    assert analysis.transfer_matrix(by_hand(), spec, "gamma").columns[-3:] == ["a", "b", "c"]
    assert analysis.leave_one_out(by_hand(), spec, "ensembles").is_empty()
