"""How sure a rate is: Wilson intervals."""

from __future__ import annotations

from statistics import NormalDist

import polars as pl

from study.errors import StudyError


def normal_quantile(confidence: float) -> float:
    """How many standard deviations a two-sided interval of this confidence (0..1, both excluded) is wide, each way."""
    if not 0 < confidence < 1:
        raise StudyError(f"{confidence} is no confidence", accepted="a number between 0 and 1, such as 0.95")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def wilson(hits: pl.Expr, images: pl.Expr, confidence: float = 0.95) -> tuple[pl.Expr, pl.Expr]:
    """The lower and the upper end, `float64` 0..1, of Wilson's score interval (1927) for `hits` of `images`.

    Both are null where there are no images. An interval is about a rate of independent images: where several seeds of
    the same images are counted together it is too narrow, and `bootstrap_rates` is not.
    """
    z = normal_quantile(confidence)
    hit, count = hits.cast(pl.Float64), images.cast(pl.Float64)
    centre = (hit + z * z / 2) / (count + z * z)
    half = z * (hit * (count - hit) / count + z * z / 4).sqrt() / (count + z * z)
    some = count > 0
    # At the ends the two terms are equal, and their rounding is not.
    low = pl.when(some).then(pl.when(hit == 0).then(0.0).otherwise(centre - half))
    high = pl.when(some).then(pl.when(hit == count).then(1.0).otherwise(centre + half))
    return low, high


def with_rate(cells: pl.DataFrame, name: str, confidence: float) -> pl.DataFrame:
    """`cells` with the rate of `hits` among `images` (null where there are none), and its ends `low` and `high`."""
    low, high = wilson(pl.col("hits"), pl.col("images"), confidence)
    rate = pl.when(pl.col("images") > 0).then(pl.col("hits") / pl.col("images")).alias(name)
    rest = [column for column in ("rmsd", "relation") if column in cells.columns]
    keys = [column for column in cells.columns if column not in {"images", "hits", *rest}]
    return cells.select(*keys, "images", "hits", rate, low.alias("low"), high.alias("high"), *rest)
