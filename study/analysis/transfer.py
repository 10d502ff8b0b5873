"""Transfer: how many adversarial images of a craft succeed against a target."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

CELL = ("sources", "attack", "goal", "seed", "steps", "budget", "target")


def succeeded(top: int = 1) -> pl.Expr:
    """Whether a row is a success, among the target's `top` most probable labels (1 to 5).

    Untargeted: the true label is not among them (Liu et al. 2017 print 1 - this as accuracy). Targeted: the target
    label is (their matching rate).

    A remote service is held to its own words. Untargeted: none of its labels for the clean image is among those that it
    gives now. Targeted: one of its names for the target label is. `top` does not count: the spec says how many labels
    make an answer.
    """
    best, names = pl.col("top5").list.head(top), pl.col("names")
    targeted = pl.col("goal") == "targeted"
    return (
        pl.when(names.is_not_null())
        .then(
            pl.when(targeted)
            .then(names.list.set_intersection("wanted_names").list.len() > 0)
            .otherwise(names.list.set_intersection("clean_names").list.len() == 0)
        )
        .when(targeted)
        .then(best.list.contains(pl.col("target_label")))
        .otherwise(~best.list.contains(pl.col("label")))
    )


def success_rates(rows: pl.LazyFrame, *, top: int = 1, by: Sequence[str] = CELL) -> pl.DataFrame:
    """One row per cell: its keys, `images`, `success` (0..1, over all images), mean `rmsd`, `white_box`.

    A search of the minimal RMSD ends elsewhere for each image: leave `budget` out of its keys.
    """
    keys = [pl.col("sources").list.join("+") if key == "sources" else pl.col(key) for key in by]
    return (
        rows.with_columns(succeeded(top).alias("success"))
        .group_by(keys)
        .agg(
            pl.len().alias("images"),
            pl.col("success").mean(),
            pl.col("rmsd").mean(),
            pl.col("white_box").all(),
        )
        .sort(by)
        .collect()
    )
