"""The order of history, and sums that do not depend on the order in which units arrive."""

from __future__ import annotations

import random

import numpy as np
import polars as pl
import pytest

from study.planning.plan import Plan
from study.planning.resume import selected, spec_of
from study.storage.run_folder import RunFolder
from study.tracking.ledger import Ledger
from study.tracking.numbers import Content, rates
from study.tracking.outline import Outline, unique
from study.tracking.tallies import Tallies


@pytest.fixture(scope="module")
def outline(tiny_run):
    folder = RunFolder(tiny_run)
    chosen = selected(folder)
    digests = {name: model["digest"] for name, model in chosen.models.items()}
    return Outline.of(Plan(spec_of(folder), digests, chosen.shards))


@pytest.fixture(scope="module")
def by_unit(tiny_run, outline):
    rows = pl.scan_parquet(tiny_run / "results" / "**/*.parquet")
    return Tallies(outline).of(rows).partition_by("unit")


def test_an_outline_is_the_same_after_a_trip_through_json(outline):
    import json

    again = Outline.from_data(json.loads(json.dumps(outline.data())))
    assert again == outline
    assert (again.turns == outline.turns).all()


def test_every_unit_has_one_turn_and_references_come_before_what_is_matched(outline):
    assert sorted(outline.turns) == list(range(outline.units))
    turns = outline.turns.reshape(len(outline.crafts), -1)
    of = {(craft.sources, craft.goal, craft.attack): turns[number] for number, craft in enumerate(outline.crafts)}
    for (sources, goal, attack), theirs in of.items():
        if attack in {"fg", "fgs"}:
            assert (of[sources, goal, "optimization"] < theirs).all()
        assert (np.diff(theirs) > 0).all()


def test_what_is_done_at_a_turn_is_what_a_loop_adds_up(outline):
    units = [(images, craft.gradients * images) for craft in outline.crafts for images in outline.shards]
    images = gradients = 0
    for done, unit in enumerate(np.argsort(outline.turns)):
        assert outline.done_at(done) == (images, gradients)
        images, gradients = images + units[unit][0], gradients + units[unit][1]
    assert outline.done_at(outline.units) == (images, gradients)


@pytest.mark.parametrize("seed", range(4))
def test_history_does_not_depend_on_the_order_of_units(outline, by_unit, seed):
    """Nor on pieces that come twice, or target by target; and no row is written before all of its units are there."""

    def history(pieces):
        ledger, content, written = Ledger(outline), Content(outline), []
        for piece in pieces:
            ledger.add(piece)
            for due in ledger.due():
                assert ledger.whole()[np.argsort(outline.turns)[: due.units]].all()
                written.append(content.row(due))
        assert ledger.complete
        return written, ledger.now

    straight, now = history(by_unit)
    pieces = [piece for unit in by_unit for piece in unit.partition_by("column")]
    pieces += pieces[::3]
    random.Random(seed).shuffle(pieces)
    shuffled, then = history(pieces)
    assert shuffled == straight
    assert (now == then).all()
    assert [row["units"] for row in straight] == list(range(1, outline.units + 1))


def test_a_row_of_history_says_what_the_analysis_says(tiny_run, outline, by_unit):
    from study.analysis.rates import success_rates
    from study.results import scanning

    ledger = Ledger(outline)
    ledger.add(pl.concat(by_unit))
    last: dict[str, float] = {}
    for due in ledger.due():
        last |= Content(outline).row(due)
    expected = success_rates(scanning.scan(tiny_run))
    assert expected.height == len(outline.cells)
    for one in expected.iter_rows(named=True):
        key = f"{one['sources']}-{one['attack']}-{one['goal']}-s{one['seed']}/{one['target']}"
        assert last[f"success/{key}"] == one["success"]
        assert last[f"success_low/{key}"] == one["low"]
        assert last[f"success_high/{key}"] == one["high"]
        assert last[f"rmsd/{key}"] == pytest.approx(one["rmsd"], abs=1e-6)
    black = expected.filter((pl.col("relation") == "black") & (pl.col("sources").str.contains("+", literal=True)))
    assert last["transfer/ensembles-untargeted/black_box"] == pytest.approx(black["hits"].sum() / black["images"].sum())


def test_very_many_units_have_a_bounded_number_of_rows(outline):
    from dataclasses import replace

    many = replace(outline, shards=(2,) * 500)
    assert len(many.ends) == 1000
    assert many.ends[-1] == many.units == 15_000
    assert many.expected.sum() == many.targets.sum()


def test_rates_without_images_are_null():
    assert rates(np.array([[0, 0, 0]])).row(0) == (0, 0, None, None, None, None)


def test_keys_that_are_there_twice_get_numbers():
    assert unique(["a", "b", "a", "a"]) == ["a", "b", "a_2", "a_3"]
