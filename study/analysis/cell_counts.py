"""Counts by cell, over many millions of rows: craft by craft first, what belongs to a craft joined afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from study.errors import StudyError, names
from study.planning.relation import RELATIONS

_OF_CRAFT = ("sources", "attack", "goal", "seed")
"""What a craft's id decides: read from one unit of each craft, for strings and lists are what a scan pays for."""

_STEPS = 2.0**48
"""RMSDs are added in so many whole steps of a pixel value, as fine as float64 is: sums of whole numbers are the same in
whatever order threads come to them."""


def sources_as_text(by: Sequence[str]) -> list[pl.Expr]:
    """The keys, with the source models in one string, joined by `+`."""
    return [pl.col("sources").list.join("+") if key == "sources" else pl.col(key) for key in by]


def check_keys(rows: pl.LazyFrame, by: Sequence[str]) -> None:
    """StudyError where a key is no column."""
    columns = rows.collect_schema().names()
    for key in by:
        if key not in columns:
            raise StudyError(f"rows have no column '{key}' to group by", accepted=names(columns, key))


def has_services(rows: pl.LazyFrame) -> bool:
    """Whether a remote service is among the targets. Statistics of the parts answer it: no page is read."""
    return not rows.filter(pl.col("top1").is_null()).select("top1").head(1).collect().is_empty()


def counted(rows: pl.LazyFrame, hit: pl.Expr, by: Sequence[str], *, every: bool) -> pl.DataFrame:
    """One row per cell of `by`, sorted: its keys, `images` and `hits` (`uint32`), mean `rmsd` over what counts (null
    where nothing does), `relation` (null where its rows have several). A row counts where `hit` is not null, which it
    never is if `every` row counts.
    """
    check_keys(rows, by)
    whole = rows.with_columns(hit.alias("hit"))
    images = pl.len() if every else pl.col("hit").count()
    steps = (pl.col("rmsd") * _STEPS).round().cast(pl.Int64).cast(pl.Int128)
    rmsd = steps.sum() if every else steps.filter(pl.col("hit").is_not_null()).sum()
    kinds = [(pl.col("relation") == kind).any().alias(kind) for kind in RELATIONS]
    sums = [images.alias("images"), pl.col("hit").sum().alias("hits"), rmsd, *kinds]
    own = [key for key in by if key in _OF_CRAFT]
    if own:
        # A unit is in the parts for ever, whereas the place of a row in them is not.
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
    again = [pl.col("images", "hits").sum(), pl.col("rmsd").sum(), pl.col(RELATIONS).any()]
    cells = cells.group_by(sources_as_text(by)).agg(again).sort(by) if by else cells.select(again)
    mean = pl.when(pl.col("images") > 0).then(pl.col("rmsd").cast(pl.Float64) / _STEPS / pl.col("images"))
    return cells.with_columns(pl.col("images", "hits").cast(pl.UInt32), mean.alias("rmsd"), _one_relation()).drop(
        RELATIONS
    )


def _one_relation() -> pl.Expr:
    """The one of RELATIONS whose column is true; null where several are."""
    alone = pl.sum_horizontal(pl.col(RELATIONS).cast(pl.UInt8)) == 1
    kind = pl.coalesce(pl.when(kind).then(pl.lit(kind)) for kind in RELATIONS)
    return pl.when(alone).then(kind).alias("relation")
