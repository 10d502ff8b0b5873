"""Prints tables of the success, cost and visibility of attacks in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table

from study.analysis.experiments import averaged, cells, of_experiment
from study.analysis.visibility import visibility
from study.report.wording import VISIBILITY, VISIBILITY_HEAD, point_name, visibility_columns, visibility_numbers
from study.results.run_reader import RunData
from study.terminal.prose import say


def print_visibility(finished: RunData, console: Console) -> bool:
    """Print a table for each experiment and goal. Return whether there was any table."""
    printed = False
    for table in visibility_tables(finished):
        console.print(table)
        printed = True
    if printed:
        say(console, VISIBILITY)
    return printed


def visibility_tables(finished: RunData) -> Iterator[Table]:
    """Yield the table of every experiment and goal with rows. Attacks that search the minimal RMSD are left out."""
    spec = finished.spec
    found = cells(finished.rows, spec)
    for name, experiment in spec.experiments.items():
        rows = visibility(finished.rows, averaged(of_experiment(found, spec, name)), spec, name)
        for goal in dict.fromkeys(experiment.goal):
            title = f"{name}, {goal}: success, cost and visibility"
            table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
            table.add_column("attack")
            here = rows.filter(goal=goal)
            columns = visibility_columns(here)
            for at in columns:
                table.add_column(VISIBILITY_HEAD[at], justify="right", no_wrap=True)
            for one in here.iter_rows(named=True):
                called = point_name(one["attack"], spec.attacks[one["attack"]], one["steps"], one["level"])
                numbers = visibility_numbers(one)
                table.add_row(called, *(numbers[at] for at in columns))
            if table.row_count:
                yield table
