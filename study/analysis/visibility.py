"""Compares the success of attacks with their cost: the number of gradients, and how visible the change is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import polars as pl

from study.analysis.experiments import of_experiment, with_level
from study.results.schema import VISIBLE
from study.spec.schema import Spec

Measure = Literal["rmsd", "linf", "psnr", "ssim", "ciede2000", "lpips"]

MEASURES: Mapping[str, bool] = {
    "rmsd": False,
    "linf": False,
    "psnr": True,
    "ssim": True,
    "ciede2000": False,
    "lpips": False,
}
"""The measures of visibility, and for each whether a higher value means a less visible change."""

_STEPS = 10**7
"""Each value is multiplied by this number and rounded to an integer before values are summed.

The sums are integers, because the rounding of float sums depends on the order in which threads add."""


def visibility(
    rows: pl.LazyFrame, cells: pl.DataFrame, spec: Spec, experiment: str, *, by: Measure = "ssim"
) -> pl.DataFrame:
    """Return success, gradients and visibility of every attack of an experiment.

    The result has one row for each point (number of steps and budget) of each attack. `cells`: the result of
    `experiments.averaged`. Columns:

    - `goal`; `attack`, in the order of the spec; `steps`; `level` (the budget);
    - `gradients`: the number of gradients of one image;
    - `success`: the mean over black-box cells (0..1); null without such cells;
    - `images`: the number of adversarial images;
    - `rmsd`, `linf` (pixel values 0..255), `psnr` (decibels), `ssim`, `ciede2000`, `lpips`: the means over these
      images; null if not computed. `psnr` leaves out images that equal the clean image;
    - `front`: whether the point is on the Pareto front of success, gradients and the measure `by`.

    A point is on the front if no other point of the same goal dominates it. Another point dominates it if it is at
    least as good in all three values and better in at least one. Attacks that search the minimal RMSD for each target
    are left out.
    """
    one = spec.experiments[experiment]
    kept = [name for name in dict.fromkeys(one.attacks) if spec.attacks[name].budget.minimal is None]
    found = of_experiment(with_level(rows, spec), spec, experiment).filter(pl.col("attack").is_in(kept))
    image = ["craft", "goal", "attack", "steps", "level", "image"]
    alone = found.group_by(image).agg(pl.col("rmsd", "linf", *VISIBLE, "gradients").first())
    alone = alone.with_columns(pl.when(pl.col("rmsd") > 0).then(20 * (255 / pl.col("rmsd")).log10()).alias("psnr"))
    point = ["goal", "attack", "steps", "level"]
    counted = [pl.len().alias("images"), pl.col("gradients").max()]
    means = alone.group_by(point).agg(*counted, *map(_mean, MEASURES)).collect(engine="streaming")
    black = cells.filter(pl.col("relation") == "black", pl.col("images") > 0)
    success = black.sort(*point, "sources", "target").group_by(point, maintain_order=True).agg(pl.col("success").mean())
    order = {name: place for place, name in enumerate(kept)}
    both = means.join(success, on=point, how="left", nulls_equal=True).sort(
        "goal",
        pl.col("attack").replace_strict(order, return_dtype=pl.Int64),
        "steps",
        "level",
        descending=[True, *[False] * 3],
    )
    return both.select(*point, "gradients", "success", "images", *MEASURES).with_columns(front(both, by))


def _mean(measure: str) -> pl.Expr:
    whole = (pl.col(measure) * _STEPS).round().cast(pl.Int64)
    return (
        (whole.cast(pl.Int128).sum().cast(pl.Float64) / pl.col(measure).count() / _STEPS).fill_nan(None).alias(measure)
    )


def front(points: pl.DataFrame, by: Measure) -> pl.Series:
    """Return, for each point, whether it is on the Pareto front of its goal; null if one of its values is missing."""
    sign = 1 if MEASURES[by] else -1
    good = [
        (goal, None if None in values else (values[0], -values[1], sign * values[2]))
        for goal, *values in points.select("goal", "success", "gradients", by).iter_rows()
    ]
    found = [
        None
        if mine is None
        else not any(
            goal == other
            and theirs is not None
            and theirs != mine
            and all(a >= b for a, b in zip(theirs, mine, strict=True))
            for other, theirs in good
        )
        for goal, mine in good
    ]
    return pl.Series("front", found, dtype=pl.Boolean)
