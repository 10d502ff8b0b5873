"""Analyses searches for the minimal RMSD: the smallest RMSD at which an attack fools a target, for each image.

Computes the distribution of these RMSDs over images, and its quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from study.analysis.cell_counts import check_keys, sources_as_text
from study.analysis.rates import hits
from study.spec.schema import Spec

_KEYS = ("sources", "attack", "goal", "target")


def minimal_cdf(rows: pl.LazyFrame, spec: Spec, *, by: Sequence[str] = _KEYS) -> pl.DataFrame:
    """Return the cumulative distribution of the minimal transferable RMSD (Liu et al. 2017, section 3.2.2, figure 1).

    Only rows of attacks with the budget `minimal` count. Such a row has the result of a linear search along the
    perturbation for one target. Columns:

    - the keys `by`;
    - `rmsd` (`float64`, pixel values): each RMSD at which a search succeeds, in ascending order;
    - `images` (`uint32`): the number of all clean images of the cell;
    - `share` (`float64` 0..1): the share of searches that succeed at this RMSD or a smaller one.

    If a search never succeeds, `share` stays below 1. A cell without any success has no rows. If `by` does not contain
    the seed, the searches of all seeds are pooled, and an image has one search for each seed.

    A search succeeds as soon as its target is fooled. Liu et al. also require that the image fools the source.
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
    """Return the RMSDs at which given shares of the searches for the minimal RMSD succeed.

    Figure 1 of Liu et al. 2017 marks the shares 50 % and 90 %. The result has one row for each combination of values of
    the keys `by`. Columns: the keys; `images` (`uint32`); `success` (`float64` 0..1, the share of searches that succeed
    at any RMSD). For each of `shares`, there is a column such as `rmsd_50` (`float64`, pixel values). It has the
    smallest RMSD at which this share of searches succeeds; null if fewer searches succeed.
    """
    searched = _searched(rows, spec, by)
    whole = [pl.col("images").first(), pl.col("hit").mean().alias("success")]
    succeeding = pl.col("rmsd").filter(pl.col("hit")).sort()
    reached = []
    for share in shares:
        # Float rounding can make the product slightly larger than a whole number. `ceil` must then not add a search.
        needed = (pl.len() * share - 1e-6).ceil().cast(pl.Int64).clip(lower_bound=1)
        reached.append(succeeding.get(needed - 1, null_on_oob=True).alias(f"rmsd_{100 * share:g}"))
    return searched.group_by(by).agg(*whole, *reached).sort(by) if by else searched.select(*whole, *reached)


def _searched(rows: pl.LazyFrame, spec: Spec, by: Sequence[str]) -> pl.DataFrame:
    """Return a row for each search for the minimal RMSD.

    Columns: the keys `by`, `image`, `rmsd`, `hit`, `images` and `searches`. `hit` says whether the search succeeds.
    `images` and `searches` are the numbers of images and of searches with equal values of the keys.
    """
    check_keys(rows, by)
    attacks = [name for name, attack in spec.attacks.items() if attack.budget.minimal is not None]
    found = rows.filter(pl.col("attack").is_in(attacks))
    counts = [pl.col("image").n_unique().cast(pl.UInt32).alias("images"), pl.len().alias("searches")]
    return (
        found.select(*sources_as_text(by), *([] if "image" in by else ["image"]), "rmsd", hits(found).alias("hit"))
        .with_columns(one.over(by) if by else one for one in counts)
        .collect(engine="streaming")
    )
