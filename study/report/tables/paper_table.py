"""`study table` makes tables of experiments in the layout of papers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from study.analysis.experiments import averaged, cells, of_experiment, with_clean_correct
from study.errors import StudyError, names
from study.report.matrix_rows import matrix_rows
from study.report.tables.layout import PLAIN, Layout, TableRate, TableRow, TableStyle
from study.spec.schema import Experiment, Spec

METRICS = ("accuracy", "success", "match")


@dataclass(frozen=True)
class TableOptions:
    """The options of `study table`.

    Attributes:
        experiments: The names of the experiments; empty for all experiments of the spec.
        top: Number of most probable labels that decide about success, 1 to 5.
        metric: `accuracy`, `success` or `match`; None for the metric of the published table that the experiment
            reproduces.
        format: The format of the table, such as `rich` (for the terminal), `latex` or `csv`.
        to: The file to write; None for standard output.
        spec: The file of a spec that replaces the run's own spec; None to use the run's own spec.
        style: How numbers and names are printed.
    """

    experiments: tuple[str, ...] = ()
    top: int = 1
    metric: str | None = None
    format: str = "rich"
    to: Path | None = None
    spec: Path | None = None
    style: TableStyle = PLAIN


def layouts(spec: Spec, rows: pl.LazyFrame, options: TableOptions) -> list[Layout]:
    """Return the tables of the experiments in `options`, one for each goal, from the rows of a run.

    The metric `accuracy` (1 - success) is only for untargeted images, `match` is only for targeted images, and
    `success` is for both. Raises StudyError if an experiment or a name to print is unknown, if the metric does not
    apply to a goal, or if `top` or the number of decimals is not possible.
    """
    for name in options.experiments:
        if name not in spec.experiments:
            raise StudyError(f"there is no experiment named '{name}'", accepted=names(spec.experiments, name))
    printable = [*spec.attacks, *spec.models, *spec.experiments]
    for name in options.style.names:
        if name not in printable:
            raise StudyError(
                f"this study has no attack, model or experiment named '{name}'",
                where="--name",
                accepted=names(printable, name),
                todo="write --name <name in the spec>=<name to print>",
            )
    if options.style.decimals is not None and not 0 <= options.style.decimals <= 6:
        raise StudyError(f"{options.style.decimals} decimals cannot be printed", accepted="--decimals 0 to 6")
    if not 1 <= options.top <= 5:
        raise StudyError(
            f"top {options.top} is not available: a row has the five most probable labels", accepted="--top 1 to 5"
        )
    return [
        table
        for name in dict.fromkeys(options.experiments or spec.experiments)
        for table in _of_experiment(spec, rows, name, options)
    ]


def _of_experiment(spec: Spec, rows: pl.LazyFrame, name: str, options: TableOptions) -> list[Layout]:
    experiment = spec.experiments[name]
    metrics = {goal: options.metric or _published_metric(experiment, goal) for goal in dict.fromkeys(experiment.goal)}
    for goal, metric in metrics.items():
        accepted = ("accuracy", "success") if goal == "untargeted" else ("match", "success")
        if metric not in accepted:
            raise StudyError(
                f"the metric '{metric}' does not apply to {goal} images, which experiment '{name}' has",
                accepted=f"--metric {' or '.join(accepted)}",
            )
    by_seed = cells(rows.filter(pl.col("attack").is_in(list(experiment.attacks))), spec, top=options.top)
    found = averaged(of_experiment(by_seed, spec, name))
    if options.style.clean_correct or options.format == "csv":
        found = with_clean_correct(found, of_experiment(rows, spec, name), spec, top=options.top)
    targets = spec.targets(experiment)
    tables = []
    for goal, metric in metrics.items():
        made = [
            TableRow(row.attack, row.variant, row.sources, tuple(_rate(cell, metric) for cell in row.cells))
            for row in matrix_rows(spec, name, goal, found)
        ]
        marked = with_best(made, metric)
        tables.append(Layout(name, goal, metric, options.top, targets, marked, style=options.style))
    return tables


def _published_metric(experiment: Experiment, goal: str) -> str:
    """Return the metric of the published table that the experiment reproduces; `success` if it names no such table."""
    from study.papers import registry

    own = {"untargeted": "accuracy", "targeted": "match"}
    for one in experiment.published.tables if experiment.published else ():
        paper, _, table = one.partition(":")
        for row in registry.rows(paper):
            kind = row["metric"].partition("-")[2]
            if row["table"] == table and row["goal"] == goal and kind in ("success", own[goal]):
                return kind
    return "success"


def _rate(cell: Mapping[str, Any] | None, metric: str) -> TableRate | None:
    if cell is None:
        return None
    value = 100 * cell["success"]
    std = None if cell["std"] is None else 100 * cell["std"]
    low, high = 100 * cell["low"], 100 * cell["high"]
    if metric == "accuracy":
        value, low, high = 100 - value, 100 - high, 100 - low
    counts = (cell["images"], cell["seeds"], cell["relation"], cell["rmsd"])
    clean = cell.get("clean_correct")
    if clean is not None:
        clean = 100 * (1 - clean if metric == "accuracy" else clean)
    return TableRate(
        value, std, *counts, low=low, high=high, clean_correct=clean,
        clean_correct_images=cell.get("clean_correct_images"),
    )  # fmt: skip


def with_best(rows: Sequence[TableRow], metric: str) -> tuple[TableRow, ...]:
    """Return the rows with `best` set in the strongest black-box rate of each target, and `best_mean` at the best mean.

    The rates of all attacks on the same source set are compared. If there is only one attack, its rates on different
    source sets are compared instead.
    """
    several = len({row.variant for row in rows}) > 1
    strongest = min if metric == "accuracy" else max
    marked = []
    for row in rows:
        rivals = [other for other in rows if other.sources == row.sources or not several]
        rates = []
        for rate, *others in zip(row.rates, *(other.rates for other in rivals), strict=True):
            values = [one.value for one in others if one is not None and one.black]
            best = rate is not None and rate.black and len(values) > 1 and _same(rate.value, strongest(values))
            rates.append(rate and replace(rate, best=best))
        means = [mean.value for other in rivals if (mean := other.mean) is not None]
        mean = row.mean
        best_mean = mean is not None and len(means) > 1 and _same(mean.value, strongest(means))
        marked.append(replace(row, rates=tuple(rates), best_mean=best_mean))
    return tuple(marked)


def _same(one: float, other: float) -> bool:
    """Return whether two rates in percent are equal, except for rounding errors of floats."""
    return math.isclose(one, other, abs_tol=1e-9)
