"""Counts successes in many millions of rows, by cell: a group of rows with equal values of some key columns.

For speed, rows are first grouped by craft (id of the attack run), and then by the columns that a craft determines.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from study.errors import StudyError, names
from study.planning.relation import RELATIONS

_CRAFT_COLUMNS = ("sources", "attack", "goal", "seed")
"""The columns that a craft (attack run) determines.

They are strings or lists, which are slow to read. So they are read only from the rows of one unit of each craft."""

_STEPS = 2.0**48
"""Each RMSD is multiplied by this number and rounded to an integer before RMSDs are summed.

The sums are integers, because the rounding of float sums depends on the order in which threads add. The integers are
about as exact as float64."""


def sources_as_text(by: Sequence[str]) -> list[pl.Expr]:
    """Return an expression for each key column of `by`. The list `sources` becomes a text, joined by `+`."""
    return [pl.col("sources").list.join("+") if key == "sources" else pl.col(key) for key in by]


def check_keys(rows: pl.LazyFrame, by: Sequence[str]) -> None:
    """Raise StudyError if a key in `by` is not a column of the rows."""
    columns = rows.collect_schema().names()
    for key in by:
        if key not in columns:
            raise StudyError(f"rows have no column '{key}' to group by", accepted=names(columns, key))


def has_services(rows: pl.LazyFrame) -> bool:
    """Return whether a remote service is among the targets: only its rows have no `top1`.

    Polars answers this from the statistics of the Parquet files, without reading rows.
    """
    return not rows.filter(pl.col("top1").is_null()).select("top1").head(1).collect().is_empty()


def counted(rows: pl.LazyFrame, hit: pl.Expr, by: Sequence[str], *, every: bool) -> pl.DataFrame:
    """Return the counts of every cell (rows with equal values of the keys `by`), sorted by the keys.

    `hit`: whether a row is a success; null for a row that does not count. Columns: the keys; `images`, `answers` and
    `hits` (`uint32`); `rmsd` (mean); `relation`. `answers` is the number of rows whose `hit` is not null. The counts
    and `rmsd` use only these rows. `images` counts each clean image once, even if a cell has answers to several of its
    adversarial images. `rmsd` is null without answers. `relation` is null if the rows of a cell have different
    relations. `every`: the caller guarantees that no `hit` is null, which makes counting faster.
    """
    check_keys(rows, by)
    whole = rows.with_columns(hit.alias("hit"))
    answers = pl.len() if every else pl.col("hit").count()
    steps = (pl.col("rmsd") * _STEPS).round().cast(pl.Int64).cast(pl.Int128)
    rmsd = steps.sum() if every else steps.filter(pl.col("hit").is_not_null()).sum()
    kinds = [(pl.col("relation") == kind).any().alias(kind) for kind in RELATIONS]
    sums = [answers.alias("answers"), pl.col("hit").sum().alias("hits"), rmsd, *kinds]
    own = [key for key in by if key in _CRAFT_COLUMNS]
    if own:
        # Identify the rows to read by their unit, not by their position, because a compaction changes positions.
        keys = list(dict.fromkeys(["craft", *(key for key in by if key not in own)]))
        cells = whole.group_by(keys).agg(*sums, pl.col("unit").first()).collect(engine="streaming")
        units = cells["unit"].unique().implode()
        crafts = (
            rows.filter(pl.col("unit").is_in(units))
            .group_by("craft")
            .agg(pl.col(own).first())
            .collect(engine="streaming")
        )
        cells = cells.join(crafts, on="craft")
    else:
        cells = whole.group_by(list(by)).agg(sums).collect(engine="streaming") if by else whole.select(sums).collect()
    again = [pl.col("answers", "hits").sum(), pl.col("rmsd").sum(), pl.col(RELATIONS).any()]
    cells = cells.group_by(sources_as_text(by)).agg(again).sort(by) if by else cells.select(again)
    mean = pl.when(pl.col("answers") > 0).then(pl.col("rmsd").cast(pl.Float64) / _STEPS / pl.col("answers"))
    counts = pl.col("answers", "hits").cast(pl.UInt32)
    found = cells.with_columns(counts, mean.alias("rmsd"), _one_relation()).drop(RELATIONS)
    return _with_images(found, whole, by)


def _with_images(cells: pl.DataFrame, whole: pl.LazyFrame, by: Sequence[str]) -> pl.DataFrame:
    """Add the column `images` to the counts of cells: the number of clean images to which a cell has answers."""
    run = "craft" in by or {"sources", "attack", "goal", "seed"} <= set(by)
    if run and {"steps", "target"} <= set(by) and {"budget", "level"} & set(by):
        # With these keys, a cell has one adversarial image, and so one answer, for each clean image.
        return cells.with_columns(pl.col("answers").alias("images"))
    images = pl.col("image").n_unique().cast(pl.UInt32).alias("images")
    judged = whole.filter(pl.col("hit").is_not_null())
    if not by:
        return cells.with_columns(judged.select(images).collect(engine="streaming")["images"])
    found = judged.group_by(sources_as_text(by)).agg(images).collect(engine="streaming")
    return cells.join(found, on=list(by), how="left", nulls_equal=True, maintain_order="left").with_columns(
        pl.col("images").fill_null(0)
    )


def _one_relation() -> pl.Expr:
    """Return the expression for the name of the only true column among RELATIONS; null if several of them are true."""
    alone = pl.sum_horizontal(pl.col(RELATIONS).cast(pl.UInt8)) == 1
    kind = pl.coalesce(pl.when(kind).then(pl.lit(kind)) for kind in RELATIONS)
    return pl.when(alone).then(kind).alias("relation")
