"""Rows to whole numbers: how many images of each unit succeed against each target, whichever way rows arrive."""

from __future__ import annotations

import polars as pl

from study.analysis.rates import hits
from study.tracking.outline import Outline

COLUMNS = (
    *("craft", "unit", "goal", "steps", "budget", "label", "target_label", "target", "clean_top1", "top1", "top5"),
    *("names", "clean_names", "wanted_names", "rmsd"),
)
"""The columns of a row that are counted here: the driver sends no others."""

MICRO = 1_000_000
"""RMSD is added up in millionths of a grey level: sums of whole numbers do not depend on the order."""


class Tallies:
    """Counts rows for one plan."""

    def __init__(self, outline: Outline) -> None:
        self._shards = len(outline.shards)
        self._minimal = [craft.id for craft in outline.crafts if craft.minimal]
        self._crafts = pl.DataFrame(
            {"craft": [craft.id for craft in outline.crafts], "number": range(len(outline.crafts))},
            schema={"craft": pl.String, "number": pl.Int64},
        )
        cells = [(cell.craft.id, cell.craft.targets[cell.target], cell.target, *cell.craft.points[cell.point])
                 for cell in outline.cells]  # fmt: skip
        self._cells = pl.DataFrame(
            [(*cell, number) for number, cell in enumerate(cells)],
            schema={
                "craft": pl.String,
                "target": pl.String,
                "column": pl.Int64,
                "steps": pl.Int32,
                "budget": pl.Float64,
                "cell": pl.Int64,
            },
            orient="row",
        )

    def of(self, rows: pl.LazyFrame) -> pl.DataFrame:
        """One row per unit and cell: `unit` (its number in the plan), `column` (of the target), `cell`, `images`,
        `hits`, `rmsd` (the sum, in `1 / MICRO` of a grey level), all `int64`. What the plan does not have is left out.
        """
        budget = pl.when(pl.col("craft").is_in(self._minimal)).then(None).otherwise(pl.col("budget"))
        # `craft.0007-<digest>`: the shard's number stands between the last full stop and the last hyphen.
        shard = pl.col("unit").str.extract(r"\.(\d+)-[^.-]*$", 1).cast(pl.Int64, strict=False)
        counted = (
            rows.with_columns(hits(rows).alias("hit"), budget.alias("budget"))
            .group_by("craft", "unit", "target", "steps", "budget")
            .agg(
                pl.len().cast(pl.Int64).alias("images"),
                pl.col("hit").sum().cast(pl.Int64).alias("hits"),
                (pl.col("rmsd") * MICRO).round().cast(pl.Int64).sum().alias("rmsd"),
            )
            .collect(engine="streaming")
        )
        return (
            counted.join(self._crafts, on="craft")
            .join(self._cells, on=["craft", "target", "steps", "budget"], nulls_equal=True)
            .with_columns(shard.alias("shard"))
            .filter(pl.col("shard") < self._shards)
            .with_columns((pl.col("number") * self._shards + pl.col("shard")).alias("unit"))
            .select("unit", "column", "cell", "images", "hits", "rmsd")
        )
