"""What of a run's rows an experiment is about, cell by cell: every table, figure and mean of an experiment begins here.

Experiments share crafts: one may ask for three seeds of what another asks for one seed of, and one may show its images
to targets that another does not name. So a number of an experiment is of its own attacks, sources, goals, seeds and
targets alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import polars as pl

from study.analysis.intervals import wilson
from study.analysis.transfer import Among, success_rates
from study.errors import StudyError, names
from study.spec.schema import Spec

POINT = ("sources", "attack", "goal", "steps", "level", "target")
"""What makes a number of a table: everything but the seed."""

Frame = TypeVar("Frame", pl.LazyFrame, pl.DataFrame)


def with_level(rows: pl.LazyFrame, spec: Spec) -> pl.LazyFrame:
    """`rows` with a column `level`: the budget, but null where each target searched for its own (`budget.minimal`)."""
    searched = [name for name, attack in spec.attacks.items() if attack.budget.minimal is not None]
    budget = pl.col("budget")
    # Where nothing is searched, the name of the attack need not be read.
    level = pl.when(~pl.col("attack").is_in(searched)).then(budget) if searched else budget
    return rows.with_columns(level.alias("level"))


def of_experiment(found: Frame, spec: Spec, experiment: str, goal: str | None = None) -> Frame:
    """The rows, or cells (with `sources` as text), that an experiment of the spec is about: of its attacks, sources,
    goals (or the one), seeds and targets. Raises StudyError where the spec has no such experiment."""
    if experiment not in spec.experiments:
        raise StudyError(f"there is no experiment '{experiment}'", accepted=names(list(spec.experiments), experiment))
    one = spec.experiments[experiment]
    listed = isinstance(found, pl.LazyFrame) and found.collect_schema()["sources"] != pl.String
    sources = pl.col("sources").list.join("+") if listed else pl.col("sources")
    return found.filter(
        pl.col("attack").is_in(list(one.attacks)),
        pl.col("goal").is_in([goal] if goal is not None else list(one.goal)),
        pl.col("seed").is_in(list(spec.seeds_of(one))),
        pl.col("target").is_in(list(spec.targets(one))),
        sources.is_in(["+".join(each) for each in spec.source_sets(one)]),
    )


def cells(
    rows: pl.LazyFrame, spec: Spec, *, top: int = 1, among: Among = "all", also: Sequence[str] = ()
) -> pl.DataFrame:
    """Every cell of the rows, seed by seed: POINT, `seed` and the keys in `also`, then the columns of
    `success_rates`."""
    return success_rates(with_level(rows, spec), top=top, by=(*also, *POINT, "seed"), among=among)


def averaged(seeds: pl.DataFrame, confidence: float = 0.95) -> pl.DataFrame:
    """Cells of single seeds, as `cells` gives them, to one row for each POINT, sorted.

    Columns: the keys, `seeds`; `images` (`uint32`, clean ones: those of one seed, for seeds show the same ones);
    `success` (mean of the seeds' rates, 0..1), `low` and `high` (Wilson, each image counted once), `std` (sample
    standard deviation of the seeds' rates; null of one seed), `rmsd` (mean of the seeds' means, pixel values),
    `relation`; `gradients` (of one image) where the cells have them. Where nothing counts, `success` is null.
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
