"""Rows held against what was selected: the images, labels and clean predictions that `images.parquet` has."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from study.images.selection import Selection
from study.results.impossible_values import PART

_Schema = dict[str, pl.DataType | type[pl.DataType]]
_SAID: _Schema = {
    "image": pl.String,
    "target": pl.String,
    "said": pl.Int32,
    "said_names": pl.List(pl.String),
}
_SELECTED: _Schema = {"image": pl.String, "selected": pl.Int32, "to_reach": pl.Int32}


def contradicting(rows: pl.LazyFrame, selection: Selection) -> Iterator[tuple[str, int, str]]:
    """What contradicts the selection, in how many rows, and one of them, with its part (in the column `PART`)."""
    images = [one for shard in selection.shards for one in shard.images]
    selected = pl.LazyFrame([(one.image, one.label, one.target_label) for one in images], _SELECTED, orient="row")
    answers = [
        (one.image, model, next(iter(clean.top5), None), None if clean.names is None else list(clean.names))
        for one in images
        for model, clean in one.clean.items()
    ]
    said = pl.LazyFrame(answers, _SAID, orient="row").with_columns(known=pl.lit(True))
    columns = ("unit", "target", "image", "goal", "label", "target_label", "clean_top1", "names", "clean_names")
    held = (
        rows.select(PART, *columns)
        .join(selected, on="image", how="left")
        .join(said, on=["image", "target"], how="left")
    )
    there, known = pl.col("selected").is_not_null(), pl.col("known").is_not_null()
    service = pl.col("names").is_not_null()
    rules = [
        ("an image that is not in images.parquet", ~there),
        ("another label than images.parquet", there & (pl.col("label") != pl.col("selected"))),
        ("another target label than images.parquet",
         there & (pl.col("goal") == "targeted") & pl.col("target_label").ne_missing(pl.col("to_reach"))),
        ("another clean prediction than images.parquet",
         known & (pl.col("clean_top1").ne_missing(pl.col("said"))
                  | (service & pl.col("clean_names").ne_missing(pl.col("said_names"))))),
    ]  # fmt: skip
    counts = held.select(rule.fill_null(False).sum().alias(str(index)) for index, (_, rule) in enumerate(rules))
    for (what, rule), count in zip(rules, counts.collect(engine="streaming").row(0), strict=True):
        if count:
            first = held.filter(rule).select(PART, "unit", "target", "image").head(1).collect().row(0)
            part, unit, target, image = first
            yield what, count, f"{part}: unit {unit}, target {target}, image {image}"
