"""Success rates and accuracies: shares of adversarial images that succeed, or that the target classifies correctly."""

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
"""The images that count: all, or those that the target classifies correctly when clean."""


def succeeded(top: int = 1) -> pl.Expr:
    """Whether a row is a success, judged by the target's `top` most probable labels (1 to 5).

    An untargeted image succeeds if the true label is not among these labels; Liu et al. 2017 report 1 minus this rate
    as accuracy. A targeted image succeeds if the target label is among them; their matching rate is this rate.

    A target that votes may give no answer. This is a success of an untargeted attack, and no success of a targeted one.

    A chat service answers in a sentence, and a judge finds labels in the sentence. An untargeted image succeeds if the
    true label is not among these labels; a targeted image succeeds if the target label is. A refusal is no success.

    Any other remote service answers with its own labels. An untargeted image succeeds if the service returns none of
    the labels that it returned for the clean image; a targeted image succeeds if the service returns a name of the
    target label. `top` does not apply: the spec sets the number of labels of an answer.
    """
    targeted = pl.col("goal") == "targeted"
    return (
        pl.when(pl.col("names").is_not_null())
        .then(pl.when(targeted).then(_named("wanted_names")).otherwise(_misnamed()))
        .otherwise(_reached(top))
    )


def kept(top: int = 1) -> pl.Expr:
    """Whether the true label is among the target's `top` most probable labels, for either goal.

    For a remote service: whether its answer still has one of the labels of its answer for the clean image. For a chat
    service: whether its answer names the true label.
    """
    named = pl.when(_talks()).then(_named("true_names")).otherwise(_named("clean_names"))
    return pl.when(pl.col("names").is_not_null()).then(named).otherwise(_given("label", top))


def hits(rows: pl.LazyFrame, *, top: int = 1, among: Among = "all", accuracy: bool = False) -> pl.Expr:
    """`succeeded` for these rows, or `kept` if `accuracy` is true; null for images that do not count.

    `among`: the images that count. All images of a service that answers with labels count, because success is relative
    to its answer for the clean image. For a chat service, a clean image is correct if the answer names the true label.
    If no target is a service, the columns of services are not read.
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
    """Success rates: one row per cell of `by`, sorted by these keys.

    Columns: the keys (`sources` joined by `+`); `images`, `uint32`: clean images that count, each once; `answers`,
    `uint32`: answers for adversarial images that count; `hits`, `uint32`: answers that succeed; `success`, `low`,
    `high`, `float64` 0..1: the share of answers that succeed, and its Wilson interval with each clean image counted
    once, null without answers; `rmsd`, `float64`, the mean over answers, in pixel values 0..255; `relation` (`white`,
    `grey` or `black`; null if a cell has several).

    For `among="all"`, this is the success rate of Wu et al. 2019 and 2020, and for targeted rows the matching rate of
    Liu et al. 2017. If `by` lacks `seed`, `goal`, `steps` or `budget`, the answers of all their values are pooled, and
    `answers` is larger than `images`. So filter `rows` to one goal, budget and number of steps first; `over_seeds`
    averages seeds. A search for the minimal RMSD ends at a different budget for each image: leave `budget` out of `by`.
    """
    check_keys(rows, by)
    cells = counted(rows, hits(rows, top=top, among=among), by, every=among == "all")
    return with_rate(cells, "success", confidence)


def matching_rates(
    rows: pl.LazyFrame, *, top: int = 1, by: Sequence[str] = CELL, confidence: float = 0.95
) -> pl.DataFrame:
    """The share of targeted images that the target classifies as the target label: Liu et al. 2017, section 2.3.

    Columns are those of `success_rates`, with the rate as `matching`.
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
    """The share of adversarial images that keep their true label, for either goal: Liu et al. 2017, section 2.3.

    Columns are those of `success_rates`, with the rate as `accuracy`. Lower means a stronger attack.
    """
    check_keys(rows, by)
    cells = counted(rows, hits(rows, top=top, among=among, accuracy=True), by, every=among == "all")
    return with_rate(cells, "accuracy", confidence)


def clean_accuracies(rows: pl.LazyFrame, *, confidence: float = 0.95) -> pl.DataFrame:
    """The top-1 accuracy of each target on the clean images behind the rows, each image once.

    Columns: `target`; `images` and `hits`, `uint32`; `accuracy`, `low`, `high`, `float64` 0..1 (Wilson). Services of
    labels are left out: their name for a true label is unknown. A chat service is right if its answer names the true
    label. `study models --accuracy` measures top-5.
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
    """Mean and standard deviation over seeds, as in Wu et al. 2020.

    One row per cell of `by`, sorted: its keys, `seeds` (`uint32`), `images` (`uint32`, the most of any seed), `success`
    (mean of the seeds' rates, 0..1), `std` (their sample standard deviation, n - 1; null for one seed), `rmsd` (mean of
    the seeds' means, in pixel values). Seeds without images that count are left out.
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
    """Whether the label in this column is among the target's `top` most probable labels."""
    if not 1 <= top <= 5:
        raise StudyError(f"top {top} is not available", accepted="1 to 5: rows hold five labels")
    if top == 1:
        return pl.col("top1") == pl.col(label)
    # A voting target that abstains has no label, even if `top5` has labels.
    answered = pl.col("top1") != ABSTAINED
    return answered & pl.col("top5").list.head(top).list.contains(pl.col(label))


def _reached(top: int) -> pl.Expr:
    # The target label is null if the goal is untargeted. It is faster to read than the goal.
    targeted = pl.col("target_label").is_not_null()
    return pl.when(targeted).then(_given("target_label", top)).otherwise(~_given("label", top))


def _named(column: str, names: str = "names") -> pl.Expr:
    return pl.col(names).list.set_intersection(column).list.len() > 0


def _talks() -> pl.Expr:
    """Whether the target answers in sentences, in which a judge finds labels."""
    return pl.col("true_names").is_not_null()


def _misnamed() -> pl.Expr:
    """Whether a service's answer makes an untargeted image a success."""
    return pl.when(_talks()).then(~_named("true_names") & ~pl.col("refused")).otherwise(~_named("clean_names"))
