"""Computes the lines of a board. A line is a run's attack on one source set, with its rates, cost and visibility."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from study.analysis.costs import at_cost
from study.analysis.experiments import averaged, cells, of_experiment, with_level
from study.analysis.ranking import interval
from study.analysis.rates import hits
from study.analysis.visibility import MEASURES, Measure, front, visibility
from study.errors import StudyError, names
from study.report.wording import point_name
from study.results.run_reader import RunData

Cell = Mapping[str, Any]
"""One row of `analysis.experiments.averaged`: the success rate of an attack against one target, by column."""

_POINT = ("attack", "steps", "level")


@dataclass(frozen=True)
class Entry:
    """A run on the board. `name` is unique on the board, and `path` is the address of the run."""

    name: str
    path: str
    data: RunData


@dataclass(frozen=True)
class Line:
    """A line of a board: one attack on one source set, after its last step or at one cost (number of gradients).

    Attributes:
        run: The name of the run on the board.
        attack: The name of the attack, with its budget or cost if there are several.
        sources: The source models, joined by `+`.
        rates: The success rate over all images, by target.
        correct: The success rate over the images that the target classifies correctly when clean, by target.
        mean: The mean of the black-box rates of `rates`, 0..1; None without black-box targets.
        low, high: The 95 % interval of `mean` (bootstrap over images); None without black-box targets.
        correct_mean: The mean of the black-box rates of `correct`; None without such rates.
        gradients: The number of gradients for one image; None if the number is not known.
        visible: The mean over images of each measure of visibility: rmsd, linf, psnr, ssim, ciede2000 and lpips. A
            measure that was not computed is None.
        front: Whether the line is on the Pareto front of its table in success, gradients and visibility. None if one of
            these values is not known.
    """

    run: str
    attack: str
    sources: str
    rates: Mapping[str, Cell]
    correct: Mapping[str, Cell]
    mean: float | None
    low: float | None
    high: float | None
    correct_mean: float | None
    gradients: float | None
    visible: Mapping[str, float | None]
    front: bool | None = None

    @property
    def images(self) -> int:
        """The largest number of clean images behind a rate of this line."""
        return max((cell["images"] for cell in self.rates.values()), default=0)


@dataclass(frozen=True)
class BoardTable:
    """A table of a board: the lines of one experiment and goal, the best line first, and all their targets.

    `measure` is the measure of visibility for `Line.front`: SSIM, or RMSD if no run has computed SSIM.
    """

    experiment: str
    goal: str
    targets: Sequence[str]
    lines: Sequence[Line]
    measure: Measure


def board_tables(entries: Sequence[Entry], experiments: Sequence[str] = ()) -> list[BoardTable]:
    """Return a table for each experiment and goal for which at least one run has rows.

    `experiments`: the names of the experiments to show; empty for all. Lines are sorted by descending black-box mean.
    Raises StudyError if no run has an experiment of a given name.
    """
    known = list(dict.fromkeys(name for entry in entries for name in entry.data.spec.experiments))
    for name in experiments:
        if name not in known:
            raise StudyError(f"no run has an experiment named '{name}'", accepted=names(known, name))
    tables = []
    for name in dict.fromkeys(experiments or known):
        having = [entry for entry in entries if name in entry.data.spec.experiments]
        goals = list(dict.fromkeys(goal for one in having for goal in one.data.spec.experiments[name].goal))
        found = {entry.name: list(_lines_of(entry, name)) for entry in having}
        for goal in goals:
            lines = [line for some in found.values() for at, line in some if at == goal]
            if lines:
                specs = [entry.data.spec for entry in having]
                targets = dict.fromkeys(target for spec in specs for target in spec.targets(spec.experiments[name]))
                shown = [target for target in targets if any(target in line.rates for line in lines)]
                measure: Measure = "ssim" if any(line.visible["ssim"] is not None for line in lines) else "rmsd"
                tables.append(BoardTable(name, goal, shown, _ranked(lines, measure), measure))
    return tables


def _lines_of(entry: Entry, experiment: str) -> Iterator[tuple[str, Line]]:
    """Yield the lines of one experiment of one run, as pairs of the goal and the line."""
    spec, rows = entry.data.spec, entry.data.rows
    one = spec.experiments[experiment]
    own = rows.filter(pl.col("attack").is_in(list(one.attacks)))
    every = averaged(of_experiment(cells(own, spec), spec, experiment))
    correct = averaged(of_experiment(cells(own, spec, among="clean-correct"), spec, experiment))
    seen = visibility(rows, every, spec, experiment)
    intervals = _intervals(entry, experiment)
    for goal, attack, steps, level, cost in _points(entry, experiment, every):
        here = {"goal": goal, "attack": attack, "steps": steps}
        at = pl.col("level").eq_missing(pl.lit(level, pl.Float64))
        looks = seen.filter(at, **here).row(0, named=True) if seen.filter(at, **here).height else {}
        name = (
            point_name(attack, spec.attacks[attack], steps, level) if cost is None else f"{attack}, {cost:,} gradients"
        )
        for sources in dict.fromkeys("+".join(each) for each in spec.source_sets(one)):
            rates = _by_target(every.filter(at, sources=sources, **here))
            if not rates:
                continue
            right = _by_target(correct.filter(at, sources=sources, **here))
            ends = intervals.get((goal, sources, attack, steps, level), (None, None))
            gradients = spec.attacks[attack].gradients(steps, sources.count("+") + 1) if sources else 0
            yield (
                goal,
                Line(
                    run=entry.name,
                    attack=name,
                    sources=sources or "elsewhere",
                    rates=rates,
                    correct=right,
                    mean=_black_mean(rates.values()),
                    low=ends[0],
                    high=ends[1],
                    correct_mean=_black_mean(right.values()),
                    gradients=gradients or looks.get("gradients"),
                    visible={measure: looks.get(measure) for measure in MEASURES},
                ),
            )


def _points(
    entry: Entry, experiment: str, found: pl.DataFrame
) -> Iterator[tuple[str, str, int, float | None, int | None]]:
    """Yield goal, attack, number of steps, budget (`level`) and cost for the lines of an experiment.

    Usually, an attack has a line for each of its budgets, after its last step; the cost is then None. If the experiment
    has `at-cost`, an attack has a line for each of these costs (numbers of gradients).
    """
    spec = entry.data.spec
    one = spec.experiments[experiment]
    if one.at_cost is not None:
        costs = at_cost(found, spec, experiment)
        for row in costs.iter_rows(named=True):
            for level in dict.fromkeys(level for _, level in spec.attacks[row["attack"]].scored_points):
                yield row["goal"], row["attack"], row["steps"], level, row["cost"]
        return
    for goal in dict.fromkeys(one.goal):
        for attack in dict.fromkeys(one.attacks):
            recipe = spec.attacks[attack]
            searched = recipe.budget.minimal is not None
            for level in (None,) if searched else dict.fromkeys(level for _, level in recipe.scored_points):
                yield goal, attack, recipe.steps, level, None


def _by_target(found: pl.DataFrame) -> dict[str, Cell]:
    return {row["target"]: row for row in found.iter_rows(named=True) if row["success"] is not None}


def _black_mean(found: Iterable[Cell]) -> float | None:
    rates = [cell["success"] for cell in found if cell["relation"] == "black"]
    return sum(rates) / len(rates) if rates else None


def _intervals(entry: Entry, experiment: str) -> dict[tuple[Any, ...], tuple[float, float]]:
    """Return the interval of each black-box mean, by goal, source set, attack, steps and budget.

    The bootstrap draws images. A drawn image counts with its mean result over all black-box targets and seeds.
    """
    spec = entry.data.spec
    rows = of_experiment(with_level(entry.data.rows, spec), spec, experiment).filter(pl.col("relation") == "black")
    keys = ["goal", "sources", *_POINT]
    by_image = (
        rows.with_columns(hits(rows).alias("hit"), pl.col("sources").list.join("+"))
        .filter(pl.col("hit").is_not_null())
        .group_by(*keys, "image")
        .agg(pl.col("hit").mean())
        .sort(*keys, "image")
        .collect(engine="streaming")
    )
    return {
        key: interval(own["hit"].to_numpy())
        for key, own in by_image.partition_by(keys, as_dict=True, include_key=False).items()
    }


def _ranked(lines: Sequence[Line], measure: Measure) -> list[Line]:
    """Return the lines sorted by descending mean, with `front` set in each line. Lines without a mean come last."""
    fronts = front(
        pl.DataFrame(
            [("", one.mean, one.gradients, one.visible[measure]) for one in lines],
            schema={"goal": pl.String, "success": pl.Float64, "gradients": pl.Float64, measure: pl.Float64},
            orient="row",
        ),
        measure,
    )
    marked = [replace(one, front=mark) for one, mark in zip(lines, fronts, strict=True)]
    return sorted(marked, key=lambda one: (one.mean is None, -(one.mean or 0), one.run, one.attack, one.sources))
