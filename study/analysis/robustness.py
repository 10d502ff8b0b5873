"""Computes destruction rates: the share of successful adversarial images that an image transform makes harmless."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from study.analysis.cell_counts import sources_as_text
from study.analysis.rates import CELL, succeeded


def destruction_rates(rows: pl.LazyFrame, plain: Mapping[str, str], *, by: Sequence[str] = CELL) -> pl.DataFrame:
    """Return the destruction rates of untargeted attacks (Kurakin et al. 2017, arXiv:1607.02533, equation 1).

    `plain` maps each target with a transform to the target that is the same model without the transform. An image
    counts if the model without the transform classifies the clean image correctly and the adversarial image wrongly.
    The destruction rate is the share of these adversarial images that the model with the transform classifies
    correctly.

    The result has one row for each combination of values of the keys `by`, from rows of targets with a transform.
    Columns: the keys, `images` (number of images that count), `destruction` (0..1; null without images).
    """
    fooled = (
        rows.filter(pl.col("goal") == "untargeted", pl.col("clean_top1") == pl.col("label"))
        .with_columns(succeeded().alias("fooled"))
        .select("craft", "steps", "budget", "image", pl.col("target").alias("plain"), "fooled")
    )
    return (
        rows.filter(pl.col("target").is_in(list(plain)))
        .with_columns(pl.col("target").replace_strict(dict(plain), return_dtype=pl.String).alias("plain"))
        .join(fooled, on=["craft", "steps", "budget", "image", "plain"], nulls_equal=True)
        .group_by(sources_as_text(by))
        .agg(
            pl.col("fooled").sum().alias("images"),
            (~succeeded()).filter(pl.col("fooled")).mean().alias("destruction"),
        )
        .sort(by)
        .collect()
    )
