"""Computes success rates and accuracies of targets on adversarial images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import polars as pl

from study.analysis.cell_counts import check_keys, counted, has_services
from study.analysis.intervals import with_rate
from study.errors import StudyError
from study.images.labels import ABSTAINED

CELL = ("sources", "attack", "goal", "seed", "steps", "budget", "target")
CELL_WITHOUT_SEED = tuple(key for key in CELL if key != "seed")

Among = Literal["all", "clean-correct"]
"""The images that count: all images, or only those whose clean version the target classifies correctly."""


def succeeded(top: int = 1) -> pl.Expr:
    """Return the expression that is true for a row whose attack succeeds.

    The target's `top` most probable labels (1 to 5) decide. An untargeted image succeeds if the true label is not among
    these labels; the accuracy of Liu et al. 2017 is 1 minus this rate. A targeted image succeeds if the target label is
    among these labels; this rate is the matching rate of Liu et al.

    A target that votes may give no answer. Then an untargeted attack succeeds, and a targeted attack does not.

    A chat service answers with a sentence, in which a judge finds labels. An untargeted image succeeds if the true
    label is not found in the sentence. A targeted image succeeds if the target label is found. A refusal is never a
    success.

    Any other remote service answers with its own labels. An untargeted image succeeds if the answer has none of the
    labels of the answer for the clean image. A targeted image succeeds if the answer has a name of the target label.
    For services, `top` has no effect: the spec sets the number of labels in an answer.
    """
    targeted = pl.col("goal") == "targeted"
    return (
        pl.when(pl.col("names").is_not_null())
        .then(pl.when(targeted).then(_named("wanted_names")).otherwise(_misnamed()))
        .otherwise(_reached(top))
    )


def kept(top: int = 1) -> pl.Expr:
    """Return the expression that is true for a row whose image keeps its true label, for untargeted and targeted rows.

    An image keeps its true label if this label is among the target's `top` most probable labels. For a chat service,
    the answer must name the true label. Any other remote service must return one of the labels that it
    returned for the clean image.
    """
    named = pl.when(_talks()).then(_named("true_names")).otherwise(_named("clean_names"))
    return pl.when(pl.col("names").is_not_null()).then(named).otherwise(_given("label", top))


def hits(rows: pl.LazyFrame, *, top: int = 1, among: Among = "all", accuracy: bool = False) -> pl.Expr:
    """Return the expression `succeeded`, or `kept` if `accuracy` is true; it is null for images that do not count.

    `among`: the images that count. With `clean-correct`, an image counts if the target classifies its clean version
    correctly. For a chat service, this means that the answer names the true label. For a service that answers with
    labels, all images count, because success is defined relative to the service's answer for the clean image. If no
    target is a service, the columns of services are not read.
    """
    if has_services(rows):
        outcome = kept(top) if accuracy else succeeded(top)
    else:
        outcome = _given("label", top) if accuracy else _reached(top)
    if among == "all":
        return outcome
    if among != "clean-correct":
        raise StudyError(f"`among` cannot be '{among}'", accepted="all or clean-correct")
    right = pl.col("clean_top1") == pl.col("label")
    if has_services(rows):
        right = pl.when(_talks()).then(_named("true_names", "clean_names")).otherwise(pl.col("top1").is_null() | right)
    return pl.when(right).then(outcome)


def success_rates(
    rows: pl.LazyFrame,
    *,
    top: int = 1,
    by: Sequence[str] = CELL,
    among: Among = "all",
    confidence: float = 0.95,
) -> pl.DataFrame:
    """Return the success rate of every cell (group of rows with equal values of the keys `by`), sorted by the keys.

    Columns:

    - the keys (`sources` joined by `+`);
    - `images` (`uint32`): the number of clean images that count, each counted once;
    - `answers` (`uint32`): the number of answers to adversarial images that count;
    - `hits` (`uint32`): the number of these answers that are a success;
    - `success`, `low`, `high` (`float64` 0..1): the share of answers that are a success, and its Wilson interval with
      each clean image counted once; null without answers;
    - `rmsd` (`float64`): the mean over answers, in pixel values 0..255;
    - `relation`: `white`, `grey` or `black`; null if a cell has several relations.

    With `among="all"`, `success` is the success rate of Wu et al. 2019 and 2020. For targeted rows, it is the matching
    rate of Liu et al. 2017.

    If `by` lacks `seed`, `goal`, `steps` or `budget`, the answers for all values of this column are pooled, and
    `answers` is larger than `images`. So filter `rows` to one goal, budget and number of steps first. `over_seeds`
    averages over seeds. A search for the minimal RMSD ends at a different budget for each image, so leave `budget` out
    of `by` for such rows.
    """
    check_keys(rows, by)
    cells = counted(rows, hits(rows, top=top, among=among), by, every=among == "all")
    return with_rate(cells, "success", confidence)


def matching_rates(
    rows: pl.LazyFrame, *, top: int = 1, by: Sequence[str] = CELL, confidence: float = 0.95
) -> pl.DataFrame:
    """Return the share of targeted images that the target classifies as the target label.

    This is the matching rate of Liu et al. 2017, section 2.3. Columns are those of `success_rates`, but the rate is
    called `matching`.
    """
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
    """Return the share of adversarial images that keep their true label (Liu et al. 2017, section 2.3).

    Untargeted and targeted rows count in the same way. Columns are those of `success_rates`, but the rate is called
    `accuracy`. A stronger attack has a lower accuracy.
    """
    check_keys(rows, by)
    cells = counted(rows, hits(rows, top=top, among=among, accuracy=True), by, every=among == "all")
    return with_rate(cells, "accuracy", confidence)


def clean_accuracies(rows: pl.LazyFrame, *, confidence: float = 0.95) -> pl.DataFrame:
    """Return the top-1 accuracy of each target on the clean images of the rows. Each image is counted once.

    Columns: `target`; `images` and `hits` (`uint32`); `accuracy`, `low` and `high` (`float64` 0..1, Wilson interval).
    A chat service is right if its answer names the true label. Services that answer with labels are left out, because
    their names for the true labels are not known. `study models --accuracy` also measures the top-5 accuracy.
    """
    local = pl.col("clean_top1") == pl.col("label")
    cells = (
        rows.filter(pl.col("clean_top1").is_not_null() | _talks())
        .group_by("target", "image")
        .agg(pl.when(_talks()).then(_named("true_names", "clean_names")).otherwise(local).first().alias("right"))
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
    by: Sequence[str] = CELL_WITHOUT_SEED,
    among: Among = "all",
) -> pl.DataFrame:
    """Return the mean and standard deviation of success rates over seeds, as in Wu et al. 2020.

    The result has one row for each combination of values of the keys `by`, sorted. Columns: the keys; `seeds`
    (`uint32`, number of seeds); `images` (`uint32`, the largest number of images of any seed); `success` (mean of the
    seeds' rates, 0..1); `std` (sample standard deviation of the seeds' rates, with n - 1; null for one seed); `rmsd`
    (mean of the seeds' mean RMSDs, in pixel values). Seeds without images that count are left out.
    """
    if "seed" in by:
        raise StudyError("'seed' cannot be a key, because rates are averaged over seeds", todo="remove it from by=")
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
    """Return the expression that is true if the label in the column `label` is among the target's `top` best labels."""
    if not 1 <= top <= 5:
        raise StudyError(f"top {top} is not available", accepted="1 to 5: a row has the five most probable labels")
    if top == 1:
        return pl.col("top1") == pl.col(label)
    # A voting target may give no answer. Its `top5` has labels even then, but these do not count.
    answered = pl.col("top1") != ABSTAINED
    return answered & pl.col("top5").list.head(top).list.contains(pl.col(label))


def _reached(top: int) -> pl.Expr:
    # `target_label` is null if the goal is untargeted. This column is faster to read than `goal`.
    targeted = pl.col("target_label").is_not_null()
    return pl.when(targeted).then(_given("target_label", top)).otherwise(~_given("label", top))


def _named(column: str, names: str = "names") -> pl.Expr:
    return pl.col(names).list.set_intersection(column).list.len() > 0


def _talks() -> pl.Expr:
    """Return the expression that is true for rows of a chat service, which answers in sentences."""
    return pl.col("true_names").is_not_null()


def _misnamed() -> pl.Expr:
    """Return the expression that is true for an untargeted row if the service's answer is a success."""
    return pl.when(_talks()).then(~_named("true_names") & ~pl.col("refused")).otherwise(~_named("clean_names"))
