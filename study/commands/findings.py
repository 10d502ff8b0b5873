"""`study findings`: which of a spec's claims a run bears out, and why."""

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
from study.geometry import store
from study.papers.findings import evaluate
from study.results import integrity
from study.results.run_reader import open_run
from study.spec.schema import Spec
from study.terminal.prose import exactly, say

_SIDES = {"above": ">", "below": "<", "apart": "further than"}

READINGS = {"each": "every cell", "average": "the average", "some": "some cell"}
"""What a finding may be claimed of, in words."""


@dataclass(frozen=True)
class FindingsOptions:
    """What is asked for: JSON or text. `spec` may say anew what is claimed: that changes no row."""

    as_json: bool = False
    spec: Path | None = None


@integrity.reads
def findings(run: str, console: Console, wish: FindingsOptions) -> None:
    """Print the findings of the run at `run`. Raises StudyError where there is no run, or its spec claims nothing."""
    finished = open_run(run, wish.spec)
    if not finished.spec.findings:
        raise StudyError(
            f"{finished.spec.study} has no findings",
            accepted="`findings:` in the spec, each with a claim, a source and a check",
            todo="add them to the study's YAML and name that file with --spec: it changes no row",
        )
    found = evaluate(finished.rows, finished.spec, images=finished.selected, geometry=cosines(run, finished.spec))
    if wish.as_json:
        exactly(console, json.dumps(found.to_dicts(), indent=2))
        return
    _print(found, console)


def cosines(run: str, spec: Spec) -> pl.LazyFrame | None:
    """The rows of all gradient-cosine probes of a run; None where its spec has none."""
    probes = [name for name, probe in spec.geometry.items() if probe.probe == "gradient-cosine"]
    return pl.concat([store.scan(run, name, "gradient-cosine") for name in probes]) if probes else None


def readings(finding: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The ways to read a finding that are shown, in words, each with its numbers: first the one that is claimed, then
    the average, or every cell beside a claim about the average."""
    other = "each" if finding["holds"] == "average" else "average"
    return [(READINGS[name], finding[name]) for name in (finding["holds"], other)]


def _print(found: pl.DataFrame, console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD)
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
    say(console, HOW)
    console.print()
    for one in found.iter_rows(named=True):
        _tell(one, console)
    counts: Mapping[str, int] = dict(found["verdict"].value_counts().iter_rows())
    told = ", ".join(f"{counts.get(name, 0)} {name}" for name in ("replicated", "not replicated", "undecided"))
    console.print(told, markup=False, highlight=False)


HOW = (
    "Of each finding the first line is what it claims, and gives its verdict; the second stands beside it. Every "
    "cell: numbers of the cell that supports the claim least; each cell is tested at 0.05 (Holm-corrected against it)."
)


def _tell(one: Mapping[str, Any], console: Console) -> None:
    lines = (
        f"{one['finding']}: {one['verdict']}",
        f"  {one['claim']} ({one['source']})",
        *(f"  {of}: {reading['reason']}" for of, reading in readings(one)),
    )
    for line in lines:
        say(console, line)
    console.print()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
