"""Computes success rates by the number of queries to the target.

An attack run makes several adversarial images of each clean image: one for each checkpoint and budget. These images are
the candidates. The attacker shows them to the target one after another, in the order of `Attack.scored_points` (steps,
then budgets), until one succeeds. Each candidate that is shown is one query. The attack itself does not use the
target's answers; the queries only choose among the finished candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from study.analysis.cell_counts import check_keys, sources_as_text
from study.analysis.intervals import with_rate
from study.analysis.rates import Among, hits
from study.errors import StudyError

CELL = ("sources", "attack", "goal", "seed", "target")
_IMAGE = ("craft", "target", "image")


def success_by_queries(
    rows: pl.LazyFrame,
    *,
    most: int | None = None,
    top: int = 1,
    by: Sequence[str] = CELL,
    among: Among = "all",
    confidence: float = 0.95,
) -> pl.DataFrame:
    """Return the success rates of attackers who may show a target 1, 2, … `most` candidates for each clean image.

    A candidate is one of the adversarial images that an attack run makes of a clean image. Columns:

    - the keys `by`;
    - `queries` (`uint32`): the allowed number of queries, from 1 to the number of candidates. It is at most `most`, and
      at most the limit that the spec sets for a service. The clean image does not count as a query;
    - `images`, `hits`, `success`, `low`, `high`: as in `success_rates`;
    - `mean_queries` (`float64`): the mean number of queries that the successes needed; null without a success.

    Rows are sorted by the keys and `queries`. For a service with limited queries, the run's rows record the queries
    that were really made. Any other target has predicted every candidate; its queries are counted up to the first
    success. Raises StudyError if `by` lacks a column of CELL, because several attack runs would then count as one
    attacker.
    """
    missing = [key for key in CELL if key not in by]
    if missing:
        raise StudyError(f"`by` lacks the column '{missing[0]}'", accepted=f"keys with at least {', '.join(CELL)}")
    check_keys(rows, by)
    order = pl.struct("steps", pl.col("budget").fill_null(-1.0)).rank("dense").over(*_IMAGE).cast(pl.UInt32)
    judged = rows.with_columns(hit=hits(rows, top=top, among=among), query=order)
    firsts = (
        judged.filter(pl.col("hit").is_not_null())
        .with_columns(sources_as_text(by))
        .group_by(*by, "image")
        .agg(
            first=pl.col("query").filter("hit").min(),
            shown=pl.min_horizontal(pl.col("query").max(), pl.col("queries").max().cast(pl.UInt32)),
        )
    )
    found = firsts.collect(engine="streaming")
    if found.is_empty():
        return _empty(found, by, confidence)
    # If the first query always succeeds, the rows of an attack run do not show the service's limit of queries. So the
    # largest number of queries in any attack run is taken.
    last = found.with_columns(pl.col("shown").max().over("target")).group_by(by).agg(pl.col("shown").max())
    if most is not None:
        last = last.with_columns(pl.col("shown").clip(upper_bound=most))
    counts = last.with_columns(queries=pl.int_ranges(1, pl.col("shown") + 1, dtype=pl.UInt32)).explode("queries")
    within = pl.col("first") <= pl.col("queries")
    cells = (
        counts.drop("shown")
        .join(found, on=list(by))
        .group_by(*by, "queries")
        .agg(
            pl.len().cast(pl.UInt32).alias("images"),
            within.fill_null(False).sum().cast(pl.UInt32).alias("hits"),
            pl.col("first").filter(within.fill_null(False)).mean().alias("mean_queries"),
        )
        .sort(*by, "queries")
    )
    means = cells["mean_queries"]
    return with_rate(cells.drop("mean_queries"), "success", confidence).with_columns(means)


def _empty(found: pl.DataFrame, by: Sequence[str], confidence: float) -> pl.DataFrame:
    counts = [pl.lit(0, pl.UInt32).alias(name) for name in ("queries", "images", "hits")]
    cells = with_rate(found.select(*by, *counts), "success", confidence)
    return cells.with_columns(pl.lit(None, pl.Float64).alias("mean_queries"))
