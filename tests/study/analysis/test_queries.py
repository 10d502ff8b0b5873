"""Success against queries, counted image by image."""

from __future__ import annotations

import polars as pl
import pytest

from study.analysis.queries import CELL, success_by_queries
from study.analysis.rates import succeeded
from study.errors import StudyError
from study.results import scanning


def counted(rows, most=None):
    """By cell and number of queries: hits, and the queries that the successes took, by a loop over the rows."""
    by_image = {}
    for row in rows.with_columns(hit=succeeded()).sort("steps", "budget").collect().iter_rows(named=True):
        cell = ("+".join(row["sources"]), *(row[key] for key in CELL[1:]))
        by_image.setdefault(cell, {}).setdefault(row["image"], []).append(row["hit"])
    for cell, images in by_image.items():
        firsts = [next((at for at, hit in enumerate(hits, 1) if hit), None) for hits in images.values()]
        for queries in range(1, min(max(map(len, images.values())), most or 99) + 1):
            within = [first for first in firsts if first is not None and first <= queries]
            yield (*cell, queries), len(images), len(within), sum(within) / len(within) if within else None


@pytest.mark.parametrize("most", [None, 1, 5])
def test_it_is_what_a_loop_counts(many_run, most):
    rows = scanning.scan(many_run).filter(pl.col("attack") != "fg-minimal")
    found = success_by_queries(rows, most=most)
    numbers = found.select(*CELL, "queries", "images", "hits", "mean_queries").iter_rows()
    assert {row[:6]: row[6:] for row in numbers} == {key: tuple(rest) for key, *rest in counted(rows, most)}
    assert (found["low"] <= found["success"]).all()
    assert set(found["queries"]) == ({1, 2} if most != 1 else {1})


def test_attackers_are_apart(many_run):
    with pytest.raises(StudyError, match="`by` lacks the column 'seed'"):
        success_by_queries(scanning.scan(many_run), by=("sources", "attack", "goal", "target"))


def test_without_rows(many_run):
    assert success_by_queries(scanning.scan(many_run).filter(pl.col("image") == "none")).is_empty()
