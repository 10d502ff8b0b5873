"""The cells of an experiment. All its tables, figures and means are based on these cells.

Experiments share crafts (attack runs), but may have different seeds and targets. So each number of an experiment is
based only on the attacks, sources, goals, seeds and targets of this experiment.
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
"""The keys of a number in a table: the keys of a cell, without the seed."""

Frame = TypeVar("Frame", pl.LazyFrame, pl.DataFrame)


def with_level(rows: pl.LazyFrame, spec: Spec) -> pl.LazyFrame:
    """`rows` with a column `level`: the budget; null if the attack searches it for each target (`budget.minimal`)."""
    searched = [name for name, attack in spec.attacks.items() if attack.budget.minimal is not None]
    budget = pl.col("budget")
    # Without a search, the column `attack` need not be read.
    level = pl.when(~pl.col("attack").is_in(searched)).then(budget) if searched else budget
    return rows.with_columns(level.alias("level"))


def one_goal(experiment: Experiment, name: str, goal: str | None) -> str:
    """`goal`, or the experiment's only goal. Raises StudyError without `goal` for an experiment with two goals."""
    if goal is None and len(set(experiment.goal)) > 1:
        raise StudyError(
            f"'{name}' has two goals", accepted=", ".join(experiment.goal), todo="choose a goal with goal="
        )
    return goal or experiment.goal[0]


def of_experiment(found: Frame, spec: Spec, experiment: str, goal: str | None = None) -> Frame:
    """The rows or cells of an experiment: of its attacks, sources, goals (or one goal), seeds and targets.

    Cells have `sources` as text. Raises StudyError for an unknown experiment.
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
    """Every cell of the rows, seed by seed. Columns: `also`, POINT and `seed`, then those of `success_rates`."""
    return success_rates(with_level(rows, spec), top=top, by=(*also, *POINT, "seed"), among=among)


def with_clean_correct(
    found: pl.DataFrame, rows: pl.LazyFrame, spec: Spec, *, top: int = 1, confidence: float = 0.95
) -> pl.DataFrame:
    """Add to the cells of `averaged` the rates over the images that the target classifies correctly when clean.

    Further columns: `clean_correct` (success, 0..1; null without such images), `clean_correct_low`,
    `clean_correct_high` and `clean_correct_images` (`uint32`, such images, once for all seeds). If a target
    misclassifies a clean image, `success` usually counts the image as a success of every untargeted attack. The further
    columns leave such images out.
    """
    judged = averaged(cells(rows, spec, top=top, among="clean-correct"), confidence)
    names = {"success": "clean_correct", "low": "clean_correct_low", "high": "clean_correct_high"}
    own = judged.select(*POINT, "success", "low", "high", pl.col("images").alias("clean_correct_images")).rename(names)
    return found.join(own, on=list(POINT), how="left", nulls_equal=True, maintain_order="left").with_columns(
        pl.col("clean_correct_images").fill_null(0)
    )


def averaged(seeds: pl.DataFrame, confidence: float = 0.95) -> pl.DataFrame:
    """The result of `cells`, averaged over seeds: one row per POINT, sorted.

    Columns: the keys, `seeds`; `images` (`uint32`, clean images, once for all seeds); `success` (mean of the seeds'
    rates, 0..1; null without images), `low` and `high` (Wilson, each image counted once), `std` (sample standard
    deviation of the seeds' rates; null for one seed), `rmsd` (mean of the seeds' means, pixel values), `relation`;
    `gradients` (per image) if the cells have them.
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
