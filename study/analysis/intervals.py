"""Wilson's score intervals of rates."""

from __future__ import annotations

import math
from statistics import NormalDist

import polars as pl

from study.errors import StudyError


def normal_quantile(confidence: float) -> float:
    """Return z, the half width in standard deviations of a two-sided normal interval: 1.96 for `confidence` 0.95.

    Raises StudyError if `confidence` is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise StudyError(f"a confidence level cannot be {confidence}", accepted="a number between 0 and 1, e.g. 0.95")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def wilson(hits: pl.Expr, images: pl.Expr, confidence: float = 0.95) -> tuple[pl.Expr, pl.Expr]:
    """Return the two ends (`float64` 0..1) of Wilson's score interval (1927) for the rate `hits` / `images`.

    Both ends are null if `images` is 0. The interval assumes independent images. So an image must be counted once, even
    if it has rows of several seeds.
    """
    z = normal_quantile(confidence)
    hit, count = hits.cast(pl.Float64), images.cast(pl.Float64)
    centre = (hit + z * z / 2) / (count + z * z)
    half = z * (hit * (count - hit) / count + z * z / 4).sqrt() / (count + z * z)
    some = count > 0
    # In theory, the low end is exactly 0 at a rate of 0, and the high end is exactly 1 at a rate of 1. Rounding makes
    # them slightly different.
    low = pl.when(some).then(pl.when(hit == 0).then(0.0).otherwise(centre - half))
    high = pl.when(some).then(pl.when(hit == count).then(1.0).otherwise(centre + half))
    return low, high


def interval_of_rate(hits: float, images: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the two ends (0..1) of Wilson's score interval (1927) for the rate `hits` / `images`.

    `hits` may be fractional. Both ends are NaN if `images` is 0.
    """
    if images == 0:
        return math.nan, math.nan
    z = normal_quantile(confidence)
    centre = (hits + z * z / 2) / (images + z * z)
    half = z * math.sqrt(max(0.0, hits * (images - hits)) / images + z * z / 4) / (images + z * z)
    return (0.0 if hits <= 0 else centre - half), (1.0 if hits >= images else centre + half)


def with_rate(cells: pl.DataFrame, name: str, confidence: float) -> pl.DataFrame:
    """Return `cells` with the rate `hits` / `answers` as the column `name`, and its Wilson interval `low` and `high`.

    If `cells` has no column `answers`, the rate is `hits` / `images`. If the denominator is 0, all three new columns
    are null. For the interval, the number of samples is `images`, because several answers to one image are not
    independent.
    """
    counted = [column for column in ("images", "answers") if column in cells.columns]
    rate = pl.when(pl.col(counted[-1]) > 0).then(pl.col("hits") / pl.col(counted[-1]))
    exact = pl.when(pl.col("images") == pl.col(counted[-1])).then(pl.col("hits"))
    low, high = wilson(exact.otherwise(rate * pl.col("images")), pl.col("images"), confidence)
    rest = [column for column in ("rmsd", "relation") if column in cells.columns]
    keys = [column for column in cells.columns if column not in {*counted, "hits", *rest}]
    return cells.select(*keys, *counted, "hits", rate.alias(name), low.alias("low"), high.alias("high"), *rest)
