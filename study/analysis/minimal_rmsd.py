"""The smallest RMSD of a successful image for a target: its distribution over images, and its quantiles."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from study.analysis.cell_counts import check_keys, sources_as_text
from study.analysis.rates import hits
from study.spec.schema import Spec

_KEYS = ("sources", "attack", "goal", "target")


def minimal_cdf(rows: pl.LazyFrame, spec: Spec, *, by: Sequence[str] = _KEYS) -> pl.DataFrame:
    """The cumulative distribution of the minimal transferable RMSD: Liu et al. 2017, section 3.2.2 and figure 1.

    Only attacks with the budget `minimal` count: their rows hold, for each target, the end of a linear search along the
    perturbation. Columns: the keys; `rmsd`, `float64`, pixel values, every value of a success, in ascending order;
    `images`, `uint32`, all clean images of the cell; `share`, `float64` 0..1, the share of searches that succeed at
    this RMSD or less. If a search never succeeds, `share` stays below 1. A cell without success has no rows. If `by`
    lacks the seed, searches of all seeds count together, and an image has one search for each seed.

    A search considers only its target. The paper also requires that the image succeeds on the source.
    """
    searched, reached = _searched(rows, spec, by), pl.col("here").cum_sum()
    return (
        searched.filter(pl.col("hit"))
        .group_by(*by, "rmsd", "images", "searches")
        .agg(pl.len().alias("here"))
        .sort(*by, "rmsd")
        .with_columns(share=(reached.over(by) if by else reached) / pl.col("searches"))
        .select(*by, "rmsd", "images", "share")
    )


def minimal_summary(
    rows: pl.LazyFrame, spec: Spec, *, by: Sequence[str] = _KEYS, shares: Sequence[float] = (0.5, 0.9, 1.0)
) -> pl.DataFrame:
    """The RMSD at which given shares of a cell's searches succeed. Liu et al. 2017, figure 1, marks 50 % and 90 %.

    Columns: the keys; `images`, `uint32`; `success`, `float64` 0..1, the share of searches that succeed at any RMSD;
    for each of `shares` a column such as `rmsd_50`, `float64`, pixel values: the smallest RMSD at which this share of
    searches succeeds; null if fewer succeed.
    """
    searched = _searched(rows, spec, by)
    whole = [pl.col("images").first(), pl.col("hit").mean().alias("success")]
    succeeding = pl.col("rmsd").filter(pl.col("hit")).sort()
    reached = []
    for share in shares:
        # 0.7 * 10 exceeds 7 by a rounding error, which must not require an eighth image.
        needed = (pl.len() * share - 1e-6).ceil().cast(pl.Int64).clip(lower_bound=1)
        reached.append(succeeding.get(needed - 1, null_on_oob=True).alias(f"rmsd_{100 * share:g}"))
    return searched.group_by(by).agg(*whole, *reached).sort(by) if by else searched.select(*whole, *reached)


def _searched(rows: pl.LazyFrame, spec: Spec, by: Sequence[str]) -> pl.DataFrame:
    """For every row of a search: keys, `rmsd`, `hit`, and the numbers of `images` and `searches` in its cell."""
    check_keys(rows, by)
    attacks = [name for name, attack in spec.attacks.items() if attack.budget.minimal is not None]
    found = rows.filter(pl.col("attack").is_in(attacks))
    counts = [pl.col("image").n_unique().cast(pl.UInt32).alias("images"), pl.len().alias("searches")]
    return (
        found.select(*sources_as_text(by), *([] if "image" in by else ["image"]), "rmsd", hits(found).alias("hit"))
        .with_columns(one.over(by) if by else one for one in counts)
        .collect(engine="streaming")
    )
