"""Computes transfer matrices, with a column for each target, and the success of ensembles against models left out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import polars as pl

from study.analysis.experiments import averaged, cells, of_experiment, one_goal
from study.analysis.rates import Among
from study.errors import StudyError
from study.spec.schema import Spec


def transfer_matrix(
    rows: pl.LazyFrame,
    spec: Spec,
    experiment: str,
    *,
    goal: str | None = None,
    top: int = 1,
    among: Among = "all",
) -> pl.DataFrame:
    """Return the success rates of an experiment as papers print them: a row per source set, a column per target.

    There is a set of rows for each attack, number of steps and budget, in the order of the spec. Columns:

    - `attack`, `sources` (joined by `+`), `steps`;
    - `level`: the budget; null if there is none, or if the attack searches its budget for each target;
    - `seeds`: the number of seeds; `images` (`uint32`): the number of clean images, counted once for all seeds;
    - `rmsd`: the mean over all targets, in pixel values; null if the attack searches its budget for each target;
    - for each target, a column with the success rate (`float64` 0..1); null without rows.

    `goal` is needed only if the experiment has two goals. Raises StudyError for an unknown experiment or goal, and if a
    needed goal is missing.
    """
    chosen = of_experiment(rows, spec, experiment)
    one = spec.experiments[experiment]
    wanted = one_goal(one, experiment, goal)
    if wanted not in one.goal:
        raise StudyError(f"'{experiment}' has no goal '{wanted}'", accepted=", ".join(one.goal))
    found = averaged(cells(chosen.filter(pl.col("goal") == wanted), spec, top=top, among=among))
    searched = [name for name in one.attacks if spec.attacks[name].budget.minimal is not None]
    mean = (pl.col("rmsd") * pl.col("images")).sum() / pl.col("images").sum()
    keys = ["attack", "sources", "steps", "level"]
    targets = spec.targets(one)
    means = [
        pl.col("seeds", "images").max(),
        pl.when(~pl.col("attack").first().is_in(searched)).then(mean).alias("rmsd"),
        *(pl.col("success").filter(pl.col("target") == target).first().alias(target) for target in targets),
    ]
    sets = ["+".join(sources) for sources in spec.source_sets(one)]
    return (
        found.group_by(keys).agg(means).sort(_place("attack", one.attacks), "steps", "level", _place("sources", sets))
    )


def leave_one_out(
    rows: pl.LazyFrame, spec: Spec, experiment: str, *, top: int = 1, among: Among = "all", confidence: float = 0.95
) -> pl.DataFrame:
    """Return the success of every ensemble of source models against the only model that the ensemble leaves out.

    These numbers are the diagonals of tables 3 and 4 of Liu et al. 2017. Columns: `attack`, `goal`, `steps`, `level`
    (the budget), `target` (the model left out), `sources`, then the other columns of `experiments.averaged`. Rows are
    sorted by the columns from `attack` to `sources`. The result is empty if the experiment has no such ensembles.
    """
    found = averaged(cells(of_experiment(rows, spec, experiment), spec, top=top, among=among), confidence)
    diagonal = pl.DataFrame(
        list(left_out(spec, experiment).items()), schema={"sources": pl.String, "target": pl.String}, orient="row"
    )
    keys = ["attack", "goal", "steps", "level", "target"]
    return (
        found.join(diagonal, on=["sources", "target"], how="semi")
        .select(*keys, "sources", pl.exclude(*keys, "sources"))
        .sort(*keys, "sources")
    )


def left_out(spec: Spec, experiment: str) -> dict[str, str]:
    """Return the model that each ensemble leaves out, by ensemble (source models joined by `+`).

    An ensemble leaves out a model if other source sets of the experiment have this model. Ensembles that leave out no
    model, or several models, are not in the result.
    """
    sets = spec.source_sets(spec.experiments[experiment])
    models = set(itertools.chain(*sets))
    return {"+".join(one): (models - set(one)).pop() for one in sets if 1 < len(one) == len(models) - 1}


def _place(column: str, order: Sequence[str]) -> pl.Expr:
    return pl.col(column).replace_strict({name: place for place, name in enumerate(order)}, return_dtype=pl.Int64)
