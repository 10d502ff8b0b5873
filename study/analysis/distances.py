"""How far images must move: the distribution of the smallest RMSD that fools a target."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from study.analysis.cell_counts import check_keys, sources_as_text
from study.analysis.transfer import hits
from study.spec.schema import Spec

_KEYS = ("sources", "attack", "goal", "target")


def minimal_cdf(rows: pl.LazyFrame, spec: Spec, *, by: Sequence[str] = _KEYS) -> pl.DataFrame:
    """The cumulative distribution of the minimal transferable RMSD: Liu et al. 2017, section 3.2.2 and figure 1.

    Of attacks whose budget is `minimal`: those rows hold, target by target, where a linear search up the ray ended.
    Columns: the keys; `rmsd`, `float64`, pixel values, each that some image has, rising; `images`, `uint32`, all of the
    cell, searched in vain or not; `share`, `float64` 0..1: of all images, those that succeed at this RMSD or less. An
    image that never succeeds is in `images` and in no `share`, which then ends below 1. A cell where none does has no
    rows. Seeds count together unless `by` has them.

    Every target is searched for by itself; the paper asks that the image be adversarial for the source as well.
    """
    searched = _searched(rows, spec, by)
    return (
        searched.filter(pl.col("hit"))
        .group_by(*by, "rmsd", "images")
        .agg(pl.len().alias("here"))
        .sort(*by, "rmsd")
        .with_columns(
            ((pl.col("here").cum_sum().over(by) if by else pl.col("here").cum_sum()) / pl.col("images")).alias("share")
        )
        .select(*by, "rmsd", "images", "share")
    )


def minimal_summary(
    rows: pl.LazyFrame, spec: Spec, *, by: Sequence[str] = _KEYS, shares: Sequence[float] = (0.5, 0.9, 1.0)
) -> pl.DataFrame:
    """The RMSD with which so many of a cell's images succeed: figure 1 of Liu et al. 2017 marks 50 % and 90 %.

    Columns: the keys; `images`, `uint32`; `success`, `float64` 0..1, of the whole search; and for each of `shares`
    `rmsd_50` and so on, `float64`, pixel values: the least RMSD at which the distribution reaches it, null where it
    never does.
    """
    searched = _searched(rows, spec, by)
    whole = [pl.col("images").first(), pl.col("hit").mean().alias("success")]
    succeeding = pl.col("rmsd").filter(pl.col("hit")).sort()
    reached = []
    for share in shares:
        # A millionth of an image is rounding: 0.7 of 10 images are 7.
        needed = (pl.len() * share - 1e-6).ceil().cast(pl.Int64).clip(lower_bound=1)
        reached.append(succeeding.get(needed - 1, null_on_oob=True).alias(f"rmsd_{100 * share:g}"))
    return searched.group_by(by).agg(*whole, *reached).sort(by) if by else searched.select(*whole, *reached)


def _searched(rows: pl.LazyFrame, spec: Spec, by: Sequence[str]) -> pl.DataFrame:
    """Keys, `rmsd`, `hit` and the number of `images` of its cell, for every row of a search."""
    check_keys(rows, by)
    attacks = [name for name, attack in spec.attacks.items() if attack.budget.minimal is not None]
    found = rows.filter(pl.col("attack").is_in(attacks))
    count = pl.len().over(by) if by else pl.len()
    return (
        found.select(*sources_as_text(by), "rmsd", hits(found).alias("hit"))
        .with_columns(count.alias("images"))
        .collect(engine="streaming")
    )
