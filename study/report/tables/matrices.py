"""Transfer matrices for the terminal: one table per experiment and goal, sources by targets, one section per attack."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from study.analysis.experiments import POINT, averaged, cells, of_experiment
from study.images.clean_accuracy import Right
from study.planning.relation import MARKS, marked
from study.report import plausibility
from study.report.wording import CLEAN_ACCURACY, RMSD, SERVICE_SUCCESS, SUCCESS_RATE, attack_points
from study.results.run_reader import Finished
from study.terminal.prose import say

_Cell = Mapping[str, Any]
"""A row of `experiments.averaged`."""


def print_matrices(finished: Finished, console: Console) -> bool:
    """Print the matrix of every experiment that has rows, then notes and warnings; False for a run without rows."""
    spec = finished.spec
    found = cells(finished.rows, spec)
    goals = []
    for table, goal in matrices(finished, found, console):
        console.print(table)
        goals.append(goal)
    if not goals:
        return False
    notes = [SUCCESS_RATE[goal] for goal in dict.fromkeys(goals)]
    notes += [SERVICE_SUCCESS] if spec.services else []
    notes += [CLEAN_ACCURACY] if finished.clean else []
    doubts = [
        *plausibility.of_models(spec, finished.clean, finished.models),
        *plausibility.of_attacks(spec, found),
    ]
    for note in (*notes, *marked(found["relation"]), RMSD, *(f"warning: {one}" for one in doubts), ""):
        say(console, note)
    return True


def matrices(finished: Finished, found: pl.DataFrame, console: Console) -> Iterator[tuple[Table, str]]:
    """The table of every experiment and goal, with the goal; several tables if the console is too narrow for one.

    `found` are the cells of the run, seed by seed.
    """
    spec = finished.spec
    for name, experiment in spec.experiments.items():
        averages = averaged(of_experiment(found, spec, name)).iter_rows(named=True)
        known = {tuple(cell[key] for key in POINT): cell for cell in averages}
        for goal in experiment.goal:
            targets = spec.targets(experiment)
            while targets:
                make = functools.partial(_matrix, finished, name, goal, known)
                table, count = _fitting(make, targets, console)
                targets = targets[count:]
                if table.row_count:
                    yield table, goal


def _fitting(make: Callable[[tuple[str, ...]], Table], targets: tuple[str, ...], console: Console) -> tuple[Table, int]:
    """The table of the first targets that fit into the width of the console (at least one), and their number."""
    wide = console.options.update(max_width=100_000)
    for count in range(len(targets), 0, -1):
        table = make(targets[:count])
        if count == 1 or console.measure(table, options=wide).maximum <= console.width:
            break
    return table, count


def _matrix(
    finished: Finished, name: str, goal: str, known: Mapping[tuple[object, ...], _Cell], targets: tuple[str, ...]
) -> Table:
    spec, experiment = finished.spec, finished.spec.experiments[name]
    several = any(cell["seeds"] > 1 for cell in known.values())
    table = Table(title=f"{name}, {goal}", box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    table.add_column("attack")
    table.add_column("source models")
    for heading in (*(["seeds"] if several else []), "images", "RMSD", *targets):
        table.add_column(heading, justify="right", no_wrap=True)
    for attack, points in groupby(attack_points(spec, experiment.attacks), key=lambda point: point[1]):
        searched = spec.attacks[attack].budget.minimal is not None
        for variant, _, steps, level in points:
            shown = variant
            for sources in spec.source_sets(experiment):
                found = [known.get(("+".join(sources), attack, goal, steps, level, target)) for target in targets]
                first = next((cell for cell in found if cell is not None), None)
                if first is not None:
                    seeds = [str(first["seeds"])] if several else []
                    numbers = (*seeds, str(first["images"]), _rmsd(found, searched=searched))
                    table.add_row(shown, " + ".join(sources) or "elsewhere", *numbers, *map(_rate, found))
                    shown = ""
        table.add_section()
    if table.row_count and any(target in finished.clean for target in targets):
        clean = [finished.clean.get(target) for target in targets]
        images = max(one.images for one in clean if one is not None)
        table.add_row("clean images", "", *([""] if several else []), str(images), "", *map(_clean, clean))
    return table


def _clean(right: Right | None) -> Text:
    shown = "– " if right is None or not right.images else f"{100 * right.share:.0f} "
    return Text(shown, style="dim")


def _rmsd(cells: Sequence[_Cell | None], *, searched: bool) -> str:
    """The mean RMSD; a range over targets if each of them searched for its own."""
    values = [cell["rmsd"] for cell in cells if cell is not None]
    if searched and len(values) > 1:
        return f"{min(values):.1f} to {max(values):.1f}"
    return f"{values[0]:.2f}"


def _rate(cell: _Cell | None) -> Text:
    if cell is None:
        return Text("– ", style="dim")
    mark = MARKS.get(cell["relation"], "")
    return Text(f"{100 * cell['success']:.0f}{mark or ' '}", style="dim" if mark else "")
