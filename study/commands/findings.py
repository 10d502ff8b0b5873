"""`study findings`: test the claims of a spec on the rows of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table

from study.errors import StudyError
from study.geometry.probe_rows import cosine_rows
from study.papers.finding_readings import EXPLANATION, readings, told
from study.papers.findings import evaluate
from study.results import integrity
from study.results.run_reader import open_run
from study.terminal.prose import exactly, say

_SIDES = {"above": ">", "below": "<", "apart": "|x| >"}


@dataclass(frozen=True)
class FindingsOptions:
    """The options of `study findings`.

    `as_json`: whether to print JSON. `spec`: a spec file that replaces the recorded spec; None: the recorded spec.
    """

    as_json: bool = False
    spec: Path | None = None


@integrity.reads
def print_findings(run: str, console: Console, options: FindingsOptions) -> None:
    """Test the claims (findings) of a spec on the rows of the run at `run`, and print the results.

    Raises StudyError if there is no run, or if the spec has no findings.
    """
    finished = open_run(run, options.spec)
    if not finished.spec.findings:
        raise StudyError(
            f"{finished.spec.study} has no findings",
            accepted="`findings:` in the spec, each with `claim`, `source` and `check`",
            todo="add findings to the spec, and pass the changed spec with --spec: the rows stay the same",
        )
    found = evaluate(finished.rows, finished.spec, images=finished.selected, geometry=cosine_rows(run, finished.spec))
    if options.as_json:
        exactly(console, json.dumps(found.to_dicts(), indent=2))
        return
    _print(found, console)


def _print(found: pl.DataFrame, console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("finding", overflow="fold")
    for column in ("claimed", "of", "verdict", "effect", "95 %", "p"):
        table.add_column(column, no_wrap=True)
    for finding in found.iter_rows(named=True):
        for place, (of, one) in enumerate(readings(finding)):
            table.add_row(
                "" if place else finding["finding"],
                "" if place else f"{_SIDES[finding['side']]} {finding['bound']:g}",
                of,
                one["verdict"],
                _number(one["effect"]),
                f"{_number(one['low'])} to {_number(one['high'])}" if one["low"] is not None else "",
                "" if one["p"] is None else f"{one['p']:.2g}",
                style="dim" if place else "",
            )
    console.print(table)
    say(console, EXPLANATION)
    console.print()
    for one in found.iter_rows(named=True):
        _explain(one, console)
    counts: Mapping[str, int] = dict(found["verdict"].value_counts().iter_rows())
    say(console, ", ".join(f"{counts.get(name, 0)} {name}" for name in ("replicated", "not replicated", "undecided")))


def _explain(one: Mapping[str, Any], console: Console) -> None:
    lines = (
        f"{one['finding']}: {one['verdict']}",
        f"  {one['claim']} ({one['source']})",
        *(f"  {of}: {told(one, reading)}" for of, reading in readings(one)),
    )
    for line in lines:
        say(console, line)
    console.print()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
