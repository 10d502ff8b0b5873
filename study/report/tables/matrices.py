"""Prints transfer matrices in the terminal: a table for each experiment and goal, with a column for each target."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from study.analysis.costs import at_cost
from study.analysis.experiments import averaged, cells, of_experiment, with_clean_correct
from study.images.clean_accuracy import Right
from study.images.labels import ABSTAINED
from study.planning.relation import MARKS, marked
from study.report import plausibility
from study.report.matrix_rows import MatrixRow, matrix_rows
from study.report.tables.short_names import legend, shortened
from study.report.tables.splitting import split
from study.report.wording import (
    AT_COST,
    CLEAN_ACCURACY,
    CLEAN_CORRECT,
    RMSD,
    SUCCESS_RATE,
    count_range,
    fixed,
    rmsd_range,
    service_notes,
)
from study.results.run_reader import RunData
from study.terminal.prose import say


def print_matrices(finished: RunData, console: Console, *, clean_correct: bool = False) -> bool:
    """Print the matrix of every experiment with rows, then notes and warnings. Return whether the run has any rows.

    With `clean_correct`, each rate over all images is followed by the rate over the images that the target classifies
    correctly when clean.
    """
    spec = finished.spec
    found = cells(finished.rows, spec)
    goals = []
    for table, goal in matrices(finished, found, console, clean_correct=clean_correct):
        console.print(table)
        goals.append(goal)
    costs = list(_costs(finished, found))
    for table in costs:
        console.print(table)
    if not goals:
        return False
    notes = [SUCCESS_RATE[goal] for goal in dict.fromkeys(goals)]
    notes += [AT_COST] if costs else []
    notes += service_notes(spec, spec.services)
    notes += [CLEAN_CORRECT] if clean_correct else []
    notes += [CLEAN_ACCURACY] if finished.clean else []
    notes += _abstentions(finished.rows)
    doubts = [
        *plausibility.of_models(spec, finished.clean, finished.models),
        *plausibility.of_attacks(spec, found),
    ]
    for note in (*notes, *marked(found["relation"]), RMSD, *(f"warning: {one}" for one in doubts), ""):
        say(console, note)
    return True


def _abstentions(rows: pl.LazyFrame) -> list[str]:
    """Return a sentence for each target that gave no answer to an image. Only targets that vote can give no answer."""
    silent = pl.col("top1") == ABSTAINED
    voting = rows.filter(silent).select("target").unique().collect()["target"].to_list()
    if not voting:
        return []
    judged = rows.filter(pl.col("target").is_in(voting))
    found = judged.group_by("target").agg(silent.mean().alias("share")).sort("target").collect(engine="streaming")
    return [
        f"{target} gives no answer to {100 * share:.1f} % of the adversarial images, which counts as a wrong answer"
        for target, share in found.iter_rows()
    ]


def matrices(
    finished: RunData, found: pl.DataFrame, console: Console, *, clean_correct: bool = False
) -> Iterator[tuple[Table, str]]:
    """Yield the tables of every experiment and goal, as pairs of the table and the goal.

    If a table is wider than the terminal, its targets are divided over several tables. Models get short names, with a
    legend, if this reduces the number of tables.
    """
    for name, experiment in finished.spec.experiments.items():
        averages = averaged(of_experiment(found, finished.spec, name))
        if clean_correct:
            averages = with_clean_correct(averages, of_experiment(finished.rows, finished.spec, name), finished.spec)
        end = len(finished.spec.targets(experiment))
        for goal in experiment.goal:
            rows = list(matrix_rows(finished.spec, name, goal, averages))
            ways = []
            for heads in _shorter(_models(finished, name)):
                table_of = functools.partial(_matrix, finished, name, goal, rows, heads=heads)
                ways.append(list(split(table_of, end, console)))
                if len(ways[-1]) == 1:
                    break
            # Use shorter names only if they reduce the number of tables.
            yield from ((table, goal) for table in min(ways, key=len) if table.row_count)


def _costs(finished: RunData, found: pl.DataFrame) -> Iterator[Table]:
    """Yield a table for each goal of each experiment that has the key `at-cost`.

    Attacks are rows, and allowed numbers of gradients are columns.
    """
    for name, experiment in finished.spec.experiments.items():
        if experiment.at_cost is None:
            continue
        rows = at_cost(averaged(of_experiment(found, finished.spec, name)), finished.spec, name)
        for goal in dict.fromkeys(experiment.goal):
            title = f"{name}, {goal}: at equal cost"
            table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
            table.add_column("attack")
            for cost in experiment.at_cost.gradients:
                table.add_column(f"{cost:,}", justify="right", no_wrap=True)
            for attack in dict.fromkeys(experiment.attacks):
                here = {
                    one["cost"]: one["success"] for one in rows.filter(goal=goal, attack=attack).iter_rows(named=True)
                }
                shown = [fixed(100 * here[cost], 1) if cost in here else "–" for cost in experiment.at_cost.gradients]
                if here:
                    table.add_row(attack, *shown)
            if table.row_count:
                yield table


@dataclass(frozen=True)
class _Heads:
    """Headings of a table: `sources` is that of the column of source models, `names` has short names of models."""

    sources: str = "source models"
    names: Mapping[str, str] = field(default_factory=dict)


def _shorter(models: Sequence[str]) -> Iterator[_Heads]:
    """Yield possible headings for a table with these models, the longest first."""
    yield _Heads()
    yield _Heads("sources")
    yield from (_Heads("sources", names) for names in shortened(models))


def _models(finished: RunData, name: str) -> list[str]:
    """Return the models of an experiment: its targets, then its other source models."""
    spec, experiment = finished.spec, finished.spec.experiments[name]
    sources = (model for one in spec.source_sets(experiment) for model in one)
    return list(dict.fromkeys((*spec.targets(experiment), *sources)))


def _matrix(
    finished: RunData, name: str, goal: str, rows: Sequence[MatrixRow], shown: slice, *, heads: _Heads
) -> Table:
    """Return the table for the targets in the slice `shown`, with a legend if `heads` has short names of models."""
    targets = finished.spec.targets(finished.spec.experiments[name])[shown]
    several = any(cell["seeds"] > 1 for row in rows for cell in row.cells if cell)
    table = Table(title=f"{name}, {goal}", box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    names = heads.names
    if names:
        table.caption, table.caption_justify = f"{legend(names)}\n", "left"
    table.add_column("attack")
    table.add_column(heads.sources)
    shown_targets = (names.get(target, target) for target in targets)
    for heading in (*(["seeds"] if several else []), "images", "RMSD", *shown_targets):
        table.add_column(heading, justify="right", no_wrap=True)
    for _, section in groupby(rows, key=lambda row: row.attack):
        last = ""
        for row in section:
            cells = row.cells[shown]
            known = [cell for cell in cells if cell is not None]
            if known:
                seeds = [str(known[0]["seeds"])] if several else []
                numbers = (
                    *seeds,
                    count_range(cell["images"] for cell in known),
                    rmsd_range([cell["rmsd"] for cell in known]),
                )
                variant = "" if row.variant == last else row.variant
                sources = " + ".join(names.get(one, one) for one in row.sources.split("+"))
                table.add_row(variant, sources, *numbers, *map(_rate, cells))
                last = row.variant
        table.add_section()
    if table.row_count and any(target in finished.clean for target in targets):
        clean = [finished.clean.get(target) for target in targets]
        images = count_range(one.images for one in clean if one is not None)
        table.add_row("clean images", "", *([""] if several else []), images, "", *map(_clean, clean))
    return table


def _clean(right: Right | None) -> Text:
    shown = "– " if right is None or not right.images else f"{fixed(100 * right.share, 0)} "
    return Text(shown, style="dim")


def _rate(cell: Mapping[str, Any] | None) -> Text:
    if cell is None:
        return Text("– ", style="dim")
    mark = MARKS.get(cell["relation"], "")
    beside = ""
    if "clean_correct" in cell:
        beside = " (–)" if cell["clean_correct"] is None else f" ({fixed(100 * cell['clean_correct'], 0)})"
    return Text(f"{fixed(100 * cell['success'], 0)}{beside}{mark or ' '}", style="dim" if mark else "")
