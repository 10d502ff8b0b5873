"""Computes the cells of an experiment, on which all its tables, figures and means are based.

A cell has the success rate of one attack with one goal on one source set against one target. Two experiments can use
the same attack runs with different seeds and targets. So only the rows of an experiment's own attacks, sources, goals,
seeds and targets are used for its cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import polars as pl

from study.analysis.intervals import wilson
from study.analysis.rates import Among, success_rates
from study.errors import StudyError, names
from study.spec.schema import Experiment, Spec

POINT = ("sources", "attack", "goal", "steps", "level", "target")
"""The key columns of a number in a table. `level` is the budget. The seed is not a key, because seeds are averaged."""

Frame = TypeVar("Frame", pl.LazyFrame, pl.DataFrame)


def with_level(rows: pl.LazyFrame, spec: Spec) -> pl.LazyFrame:
    """Return `rows` with a further column `level`: the budget, as the spec sets it.

    `level` is null if the attack has no fixed budget, or searches its smallest budget for each target
    (`budget.minimal`).
    """
    searched = [name for name, attack in spec.attacks.items() if attack.budget.minimal is not None]
    budget = pl.col("budget")
    # If no attack searches its budget, the column `attack` need not be read.
    level = pl.when(~pl.col("attack").is_in(searched)).then(budget) if searched else budget
    return rows.with_columns(level.alias("level"))


def one_goal(experiment: Experiment, name: str, goal: str | None) -> str:
    """Return `goal`, or the only goal of the experiment if `goal` is None.

    Raises StudyError if `goal` is None and the experiment has two goals. `name`: the name of the experiment.
    """
    if goal is None and len(set(experiment.goal)) > 1:
        raise StudyError(
            f"'{name}' has two goals", accepted=", ".join(experiment.goal), todo="choose a goal with goal="
        )
    return goal or experiment.goal[0]


def of_experiment(found: Frame, spec: Spec, experiment: str, goal: str | None = None) -> Frame:
    """Return the rows or cells of `found` that belong to an experiment and, if `goal` is given, have this goal.

    A row belongs to an experiment if the experiment has its attack, sources, goal, seed and target. Cells have
    `sources` as text, joined by `+`. Raises StudyError for an unknown experiment.
    """
    if experiment not in spec.experiments:
        raise StudyError(f"there is no experiment '{experiment}'", accepted=names(list(spec.experiments), experiment))
    one = spec.experiments[experiment]
    listed = isinstance(found, pl.LazyFrame) and found.collect_schema()["sources"] != pl.String
    sources = pl.col("sources").list.join("+") if listed else pl.col("sources")
    strangers = [
        ~((sources == "+".join(source_set)) & pl.col("target").is_in(list(kin)))
        for source_set, kin in spec.kin_left_out(one).items()
    ]
    return found.filter(
        *strangers,
        pl.col("attack").is_in(list(one.attacks)),
        pl.col("goal").is_in([goal] if goal is not None else list(one.goal)),
        pl.col("seed").is_in(list(spec.seeds_of(one))),
        pl.col("target").is_in(list(spec.targets(one))),
        sources.is_in(["+".join(each) for each in spec.source_sets(one)]),
    )


def cells(
    rows: pl.LazyFrame, spec: Spec, *, top: int = 1, among: Among = "all", also: Sequence[str] = ()
) -> pl.DataFrame:
    """Return the cells of the rows: a success rate for every combination of POINT and `seed`.

    Columns: the further keys `also`, then POINT and `seed`, then the columns of `success_rates`.
    """
    return success_rates(with_level(rows, spec), top=top, by=(*also, *POINT, "seed"), among=among)


def with_clean_correct(
    found: pl.DataFrame, rows: pl.LazyFrame, spec: Spec, *, top: int = 1, confidence: float = 0.95
) -> pl.DataFrame:
    """Return the cells `found` with further columns: success rates over images that the target knows when clean.

    The further columns count only images that the target classifies correctly when clean. The column `success` counts
    all images. An image that the target misclassifies even when clean usually counts as a success of every untargeted
    attack. `found`: the result of `averaged`. `rows`: the rows of the experiment.

    Further columns: `clean_correct` (success rate 0..1; null without such images); `clean_correct_low` and
    `clean_correct_high` (its Wilson interval); `clean_correct_images` (`uint32`, number of such images, counted once
    for all seeds).
    """
    judged = averaged(cells(rows, spec, top=top, among="clean-correct"), confidence)
    names = {"success": "clean_correct", "low": "clean_correct_low", "high": "clean_correct_high"}
    own = judged.select(*POINT, "success", "low", "high", pl.col("images").alias("clean_correct_images")).rename(names)
    return found.join(own, on=list(POINT), how="left", nulls_equal=True, maintain_order="left").with_columns(
        pl.col("clean_correct_images").fill_null(0)
    )


def averaged(seeds: pl.DataFrame, confidence: float = 0.95) -> pl.DataFrame:
    """Return the cells averaged over seeds. `seeds`: the result of `cells`, which has a row for each seed.

    The result has one row for each combination of POINT, sorted. Columns:

    - the keys, and `seeds`: the number of seeds with images that count;
    - `images` (`uint32`): the number of clean images, counted once for all seeds;
    - `success`: the mean of the seeds' rates (0..1); null without images;
    - `low`, `high`: the Wilson interval, with each image counted once;
    - `std`: the sample standard deviation of the seeds' rates; null for one seed;
    - `rmsd`: the mean of the seeds' mean RMSDs, in pixel values; `relation`;
    - `gradients` (per image), if the cells `seeds` have this column.
    """
    counted = pl.col("images") > 0
    costs = [pl.col("gradients").max()] if "gradients" in seeds.columns else []
    found = (
        seeds.group_by(POINT)
        .agg(
            pl.col("seed").filter(counted).n_unique().alias("seeds"),
            pl.col("images").max(),
            pl.col("success").mean(),
            pl.col("success").std(ddof=1).alias("std"),
            pl.col("rmsd").mean(),
            pl.col("relation").first(),
            *costs,
        )
        .sort(POINT)
    )
    low, high = wilson(pl.col("success") * pl.col("images"), pl.col("images"), confidence)
    rest = ["std", "rmsd", "relation", *(["gradients"] if costs else [])]
    return found.select(*POINT, "seeds", "images", "success", low.alias("low"), high.alias("high"), *rest)
