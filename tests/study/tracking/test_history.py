"""The rows of history: each number of units once, and sums that do not depend on the order of the units."""

from __future__ import annotations

import pickle
import random
from dataclasses import replace

import polars as pl
import pytest

from study.planning.plan import Plan
from study.planning.resume import selected, spec_of
from study.storage.run_folder import RunFolder
from study.tracking.history import History, Outline


@pytest.fixture(scope="module")
def outline(tiny_run):
    folder = RunFolder(tiny_run)
    chosen = selected(folder)
    digests = {name: model["digest"] for name, model in chosen.models.items()}
    return pickle.loads(pickle.dumps(Outline.of(Plan(spec_of(folder), digests, chosen.shards))))


@pytest.fixture(scope="module")
def frame(tiny_run):
    return pl.read_parquet(tiny_run / "results" / "**/*.parquet")


def values(rows):
    found = {}
    for row in rows:
        found |= row
    return found


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_history_has_each_number_of_units_once_whatever_the_order(outline, frame, seed):
    """Also of pieces that come twice, or target by target."""
    straight = list(History(outline, 0).add(frame.lazy()))
    assert [row["units"] for row in straight] == list(range(1, outline.units + 1))
    pieces = frame.partition_by("unit", "target")
    pieces += pieces[::3]
    random.Random(seed).shuffle(pieces)
    history, rows = History(outline, 0), []
    for piece in pieces:
        rows += history.add(piece.lazy())
        assert len(rows) == history.done.sum()
    assert [row["units"] for row in rows] == [row["units"] for row in straight]
    assert values(rows) == pytest.approx(values(straight))
    images = len(outline.gradients) * sum(outline.shards)
    assert (straight[-1]["images"], straight[-1]["gradients"]) == (images, sum(outline.gradients) * sum(outline.shards))


def test_a_launch_that_goes_on_begins_after_the_last_row_with_all_cells(outline, frame):
    all_rows = list(History(outline, 0).add(frame.lazy()))
    rest = list(History(outline, 9).add(frame.lazy()))
    assert [row["units"] for row in rest] == list(range(10, outline.units + 1))
    assert rest[0] == values(all_rows[:10])
    assert list(History(outline, outline.units).add(frame.lazy())) == []


def test_a_row_of_history_says_what_the_analysis_says(tiny_run, outline, frame):
    from study.analysis.rates import success_rates
    from study.results import scanning

    last = values(History(outline, 0).add(frame.lazy()))
    expected = success_rates(scanning.scan(tiny_run))
    assert expected.height == len(outline.names)
    for one in expected.iter_rows(named=True):
        key = f"{one['sources']}-{one['attack']}-{one['goal']}-s{one['seed']}/{one['target']}"
        found = [last[f"{metric}/{key}"] for metric in ("success", "success_low", "success_high", "rmsd")]
        assert found == pytest.approx([one["success"], one["low"], one["high"], one["rmsd"]])
    black = expected.filter((pl.col("relation") == "black") & (pl.col("sources").str.contains("+", literal=True)))
    assert last["transfer/ensembles-untargeted/black_box"] == pytest.approx(black["hits"].sum() / black["images"].sum())


def test_rows_of_other_plans_are_left_out(outline, frame):
    other = frame.with_columns(craft=pl.lit("another"))
    assert list(History(outline, 0).add(other.lazy())) == []


def test_a_study_of_very_many_units_has_a_bounded_number_of_rows(outline, frame):
    many = replace(outline, shards=(outline.shards * 500)[:500])
    history = History(many, 0)
    rows = list(history.add(frame.lazy()))
    assert many.units > 5000
    assert len(rows) == history.done.sum() // -(-many.units // 1000)
