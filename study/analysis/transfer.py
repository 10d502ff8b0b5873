"""Transfer: how many adversarial images of a craft succeed against a target, and how many keep their label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import polars as pl

from study.analysis.cell_counts import check_keys, counted, has_services
from study.analysis.intervals import with_rate
from study.errors import StudyError

CELL = ("sources", "attack", "goal", "seed", "steps", "budget", "target")
_WITHOUT_SEED = ("sources", "attack", "goal", "steps", "budget", "target")

Among = Literal["all", "clean-correct"]
"""Which images count: all, or those that the target itself gets right when clean."""


def succeeded(top: int = 1) -> pl.Expr:
    """Whether a row is a success, among the target's `top` most probable labels (1 to 5).

    Untargeted: the true label is not among them (Liu et al. 2017 print 1 - this as accuracy). Targeted: the target
    label is (their matching rate).

    A remote service is held to its own words. Untargeted: none of its labels for the clean image is among those that it
    gives now. Targeted: one of its names for the target label is. `top` does not count: the spec says how many labels
    make an answer.
    """
    targeted = pl.col("goal") == "targeted"
    return (
        pl.when(pl.col("names").is_not_null())
        .then(pl.when(targeted).then(_named("wanted_names")).otherwise(~_named("clean_names")))
        .otherwise(_reached(top))
    )


def kept(top: int = 1) -> pl.Expr:
    """Whether the true label is still among the target's `top` most probable, whatever the goal; of a remote service,
    whether one of its labels for the clean image is left."""
    return pl.when(pl.col("names").is_not_null()).then(_named("clean_names")).otherwise(_given("label", top))


def hits(rows: pl.LazyFrame, *, top: int = 1, among: Among = "all", accuracy: bool = False) -> pl.Expr:
    """`succeeded`, or `kept`, for these rows: null for images that do not count, and without reading what only services
    have where there are none. A service's clean answer is what it is held to: all of its images count.
    """
    if has_services(rows):
        outcome = kept(top) if accuracy else succeeded(top)
    else:
        outcome = _given("label", top) if accuracy else _reached(top)
    if among == "all":
        return outcome
    if among != "clean-correct":
        raise StudyError(f"there are no images '{among}'", accepted="all, or clean-correct")
    clean = pl.col("clean_top1")
    return pl.when(pl.col("top1").is_null() | (clean == pl.col("label"))).then(outcome)


def success_rates(
    rows: pl.LazyFrame,
    *,
    top: int = 1,
    by: Sequence[str] = CELL,
    among: Among = "all",
    confidence: float = 0.95,
) -> pl.DataFrame:
    """Success rates: one row per cell of `by`, sorted by it.

    Columns: the keys (`sources` as one string, joined by `+`); `images` and `hits`, `uint32`: how many adversarial
    images count, and succeed; `success`, `low`, `high`, `float64` 0..1: the rate and its Wilson interval, null without
    images; `rmsd`, `float64`, the mean of those that count, in pixel values 0..255; `relation` (`white`, `grey` or
    `black`; null where a cell has several).

    Over all images it is the success rate of Wu et al. 2019 and 2020, and in targeted rows the matching rate of Liu et
    al. 2017. Where `by` leaves out `seed`, seeds are counted together, and a clean image counts once for each of
    them; `over_seeds` and the functions of an experiment count it once. A search of the minimal RMSD ends elsewhere for
    each image: leave `budget` out of its keys.
    """
    check_keys(rows, by)
    cells = counted(rows, hits(rows, top=top, among=among), by, every=among == "all")
    return with_rate(cells, "success", confidence)


def matching_rates(
    rows: pl.LazyFrame, *, top: int = 1, by: Sequence[str] = CELL, confidence: float = 0.95
) -> pl.DataFrame:
    """Liu et al. 2017, section 2.3: of targeted images, the share that the target gives the target label. Columns are
    those of `success_rates`, the rate as `matching`."""
    targeted = rows.filter(pl.col("goal") == "targeted")
    return success_rates(targeted, top=top, by=by, confidence=confidence).rename({"success": "matching"})


def accuracies(
    rows: pl.LazyFrame,
    *,
    top: int = 1,
    by: Sequence[str] = CELL,
    among: Among = "all",
    confidence: float = 0.95,
) -> pl.DataFrame:
    """Liu et al. 2017, section 2.3: the share of adversarial images that still get their true label, also where
    the goal is another label. Columns are those of `success_rates`, the rate as `accuracy`; less of it is a stronger
    attack."""
    check_keys(rows, by)
    cells = counted(rows, hits(rows, top=top, among=among, accuracy=True), by, every=among == "all")
    return with_rate(cells, "accuracy", confidence)


def clean_accuracies(rows: pl.LazyFrame, *, confidence: float = 0.95) -> pl.DataFrame:
    """How many of the clean images behind the rows each target gets right, each image once.

    Columns: `target`; `images` and `hits`, `uint32`; `accuracy`, `low`, `high`, `float64` 0..1 (top-1, Wilson). Remote
    services have no rows here: nobody knows their name for a true label. (`study models --accuracy` measures top-5.)
    """
    cells = (
        rows.filter(pl.col("clean_top1").is_not_null())
        .group_by("target", "image")
        .agg((pl.col("clean_top1") == pl.col("label")).first().alias("right"))
        .group_by("target")
        .agg(pl.len().alias("images"), pl.col("right").sum().alias("hits"))
        .sort("target")
        .collect(engine="streaming")
    )
    return with_rate(cells, "accuracy", confidence)


def over_seeds(
    rows: pl.LazyFrame,
    *,
    top: int = 1,
    by: Sequence[str] = _WITHOUT_SEED,
    among: Among = "all",
) -> pl.DataFrame:
    """Mean and spread over seeds, as Wu et al. 2020 print them (mean ± standard deviation over five runs).

    One row per cell of `by`, sorted: its keys, `seeds` (`uint32`), `images` (`uint32`, of one seed at most), `success`
    (the mean of the seeds' rates, 0..1), `std` (their sample standard deviation, n - 1; null of one seed), `rmsd` (the
    mean of the seeds' means, in pixel values). A seed without an image that counts is left out.
    """
    if "seed" in by:
        raise StudyError("'seed' is what is averaged over, and cannot be a key as well")
    single = success_rates(rows, top=top, by=(*by, "seed"), among=among).filter(pl.col("images") > 0)
    numbers = [
        pl.len().alias("seeds"),
        pl.col("images").max(),
        pl.col("success").mean(),
        pl.col("success").std(ddof=1).alias("std"),
        pl.col("rmsd").mean(),
    ]
    return single.group_by(by).agg(numbers).sort(by) if by else single.select(numbers)


def _given(label: str, top: int) -> pl.Expr:
    """Whether that column's label is among the target's `top` most probable."""
    if not 1 <= top <= 5:
        raise StudyError(f"there is no top {top}", accepted="1 to 5: rows hold five labels")
    if top == 1:
        return pl.col("top1") == pl.col(label)
    return pl.col("top5").list.head(top).list.contains(pl.col(label))


def _reached(top: int) -> pl.Expr:
    # The target label is null where the goal is untargeted, and cheaper to read than the goal.
    targeted = pl.col("target_label").is_not_null()
    return pl.when(targeted).then(_given("target_label", top)).otherwise(~_given("label", top))


def _named(column: str) -> pl.Expr:
    return pl.col("names").list.set_intersection(column).list.len() > 0
