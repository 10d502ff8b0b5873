"""Distributions of the minimal RMSD against a naive loop over the rows of a real run."""

from __future__ import annotations

import math

import polars as pl
import pytest

from study import analysis
from tests.study.analysis.conftest import grouped

KEYS = ("sources", "attack", "goal", "target")


def test_minimal_cdf(scanned, spec, loop):
    ours = analysis.minimal_cdf(scanned, spec)
    cells = grouped([row for row in loop if row["attack"] == "fg-minimal"], *KEYS)
    found = grouped(ours.to_dicts(), *KEYS)
    assert set(found) == {key for key, cell in cells.items() if any(row["hit1"] for row in cell)}
    for key, rows in found.items():
        reached = sorted(row["rmsd"] for row in cells[key] if row["hit1"])
        assert [row["rmsd"] for row in rows] == sorted(set(reached))
        for row in rows:
            assert row["images"] == len({one["image"] for one in cells[key]}) == 8, "of two seeds"
            assert row["share"] == pytest.approx(sum(one <= row["rmsd"] for one in reached) / 16)


@pytest.mark.parametrize("by", [KEYS, ("goal",), ()], ids=str)
def test_minimal_summary(scanned, spec, loop, by):
    shares = (0.05, 0.3, 0.5, 0.7, 0.9, 1.0)
    ours = analysis.minimal_summary(scanned, spec, by=by, shares=shares)
    cells = grouped([row for row in loop if row["attack"] == "fg-minimal"], *by)
    assert ours.height == len(cells)
    for row in ours.to_dicts():
        cell = cells[tuple(row[key] for key in by)]
        reached = sorted(one["rmsd"] for one in cell if one["hit1"])
        assert row["images"] == 8, "each once, for all seeds, goals and targets"
        assert row["success"] == pytest.approx(len(reached) / len(cell))
        for share in shares:
            needed = max(1, math.ceil(round(share * len(cell), 6)))
            assert row[f"rmsd_{100 * share:g}"] == (reached[needed - 1] if needed <= len(reached) else None)


def test_search_without_success(by_hand, spec):
    search = {"attack": "fg-minimal", "steps": 1}
    never = by_hand(*({**search, "image": str(at), "top5": [3, 1, 2, 4, 5]} for at in range(3)))
    assert analysis.minimal_cdf(never, spec).is_empty()
    (row,) = analysis.minimal_summary(never, spec).to_dicts()
    assert (row["images"], row["success"], row["rmsd_50"], row["rmsd_100"]) == (3, 0, None, None)
    tied = by_hand(*({**search, "image": str(at), "rmsd": 4.0 if at else 2.0} for at in range(4)))
    assert analysis.minimal_cdf(tied, spec).select("rmsd", "share").rows() == [(2.0, 0.25), (4.0, 1.0)]
    assert analysis.minimal_summary(by_hand(), spec).is_empty()
    assert analysis.minimal_cdf(by_hand({}), spec).filter(pl.col("attack") == "mi").is_empty()
