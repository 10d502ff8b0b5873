"""What image transformations leave of an attack's success."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from study.analysis.transfer import CELL, succeeded


def destruction_rates(rows: pl.LazyFrame, plain: Mapping[str, str], *, by: Sequence[str] = CELL) -> pl.DataFrame:
    """Kurakin et al. 2017 (arXiv:1607.02533), equation 1, for untargeted attacks: of the images that the plain model
    gets right when clean and wrong when adversarial, the share that it gets right again once they are transformed.

    `plain` names the model behind each transformed one. One row per cell of a transformed target: its keys, `images`
    (those that count: 0 where the attack never succeeds, and the rate is null then) and `destruction` (0..1).
    """
    fooled = (
        rows.filter(pl.col("goal") == "untargeted", pl.col("clean_top1") == pl.col("label"))
        .with_columns(succeeded().alias("fooled"))
        .select("craft", "steps", "budget", "image", pl.col("target").alias("plain"), "fooled")
    )
    keys = [pl.col("sources").list.join("+") if key == "sources" else pl.col(key) for key in by]
    return (
        rows.filter(pl.col("target").is_in(list(plain)))
        .with_columns(pl.col("target").replace_strict(dict(plain), return_dtype=pl.String).alias("plain"))
        .join(fooled, on=["craft", "steps", "budget", "image", "plain"], nulls_equal=True)
        .group_by(keys)
        .agg(
            pl.col("fooled").sum().alias("images"),
            (~succeeded()).filter(pl.col("fooled")).mean().alias("destruction"),
        )
        .sort(by)
        .collect()
    )
