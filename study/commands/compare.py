"""`study compare`: print a run's numbers next to the published numbers of papers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table

from study.papers import paper_comparison
from study.papers.run_comparison import OTHER_IMAGES, cell_texts, compare_run, papers_of, provenance, reasons
from study.results import integrity
from study.results.run_reader import open_run
from study.terminal import prose


@dataclass(frozen=True)
class CompareOptions:
    """The options of `study compare`.

    Attributes:
        paper: The paper; None: all papers that the spec names.
        everything: Whether to print all numbers, also those that are not comparable.
        as_json: Whether to print JSON.
        spec: A spec file that replaces the recorded spec, for example with other published tables; None: the recorded
            spec.
    """

    paper: str | None = None
    everything: bool = False
    as_json: bool = False
    spec: Path | None = None


@integrity.reads
def print_comparison(run: str, console: Console, options: CompareOptions) -> None:
    """Print the numbers of the run at `run` next to the numbers of papers.

    Raises StudyError if there is no run, if there is no such paper, or if the spec names no table of a paper.
    """
    finished = open_run(run, options.spec)
    spec, selected = finished.spec, finished.selected
    papers = papers_of(spec, options.paper)
    compared = compare_run(run, finished, papers)
    digests = {name: one.get("digest") for name, one in finished.models.items()}
    origins = {paper: provenance(paper, compared, spec, digests, selected) for paper in papers}
    if options.as_json:
        prose.exactly(console, as_json(compared, origins, options))
        return
    for paper in papers:
        _print_paper(compared.filter(paper=paper), origins[paper], console, options)


def as_json(compared: pl.DataFrame, origins: Mapping[str, Any], options: CompareOptions) -> str:
    """Return the comparison as JSON with the keys `papers`, `tables` (a summary of each table) and `cells`.

    A cell is one number of a table. Cells that are not comparable are left out, unless `options.everything` is set.
    """
    cells = compared if options.everything else compared.filter("comparable")
    found = {
        "papers": dict(origins),
        "tables": paper_comparison.summary(compared).to_dicts(),
        "cells": [
            {**one, "params": json.loads(one["params"] or "{}")} for one in cells.drop("row").iter_rows(named=True)
        ],
    }
    return json.dumps(found, indent=2)


def _print_paper(compared: pl.DataFrame, origin: Mapping[str, Any], console: Console, options: CompareOptions) -> None:
    say = partial(prose.say, console)
    say(f"{origin['paper']}\n")
    tables = compared.partition_by("table", maintain_order=True)
    absent = [one["table"][0] for one in tables if one["experiment"].null_count() == one.height]
    for one in tables:
        shown = one if options.everything else one.filter("comparable")
        why = reasons(one)
        if not shown.is_empty():
            console.print(_cells(shown, [reason for reason, _ in why] if options.everything else []))
        if options.everything or one["table"][0] not in absent:
            for number, (reason, count) in enumerate(why, start=1):
                mark = f"({number}) " if options.everything else ""
                say(f"  {mark}{count} not comparable: {reason}")
            say("")
    summary = _summary(paper_comparison.summary(compared), absent)
    if summary.row_count:
        console.print(summary)
    if absent:
        say("tables without a cell in this spec (--all prints the reasons): " + ", ".join(absent))
    present = {(one["paper"][0], one["table"][0]) for one in tables if one["table"][0] not in absent}
    say(f"images of the paper: {origin['images']['there']}")
    for key, text in OTHER_IMAGES.items():
        if key in present:
            say(f"images used for table {key[1]} of the paper: {text}")
    say(f"images of this run: {origin['images']['here']:,}, which may be other images than the paper's")
    for name, one in origin["models"].items():
        say(f"model {name} ({str(one['digest'])[:8]}): {one['weights']}")
    say("interval: 95 % (Wilson) of our number; off: ours - theirs; rank: Spearman's correlation of ours and theirs\n")


def _cells(compared: pl.DataFrame, why: Sequence[str]) -> Table:
    """Return the numbers of a published table, one per line.

    `why`: reasons why numbers are not comparable. A line refers to its reason by number. If `why` is empty, the lines
    have no such reference.
    """
    first = compared.row(0, named=True)
    table = Table(
        title=f"{first['paper']}, table {first['table']}: {first['metric']}"
        if compared["metric"].n_unique() == 1
        else f"{first['paper']}, table {first['table']}",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
    )
    for heading in ("attack", "sources", "target"):
        table.add_column(heading, overflow="fold")
    for heading in ("theirs", "ours", "interval", "off"):
        table.add_column(heading, justify="right")
    if why:
        table.add_column("why")
    for one in compared.iter_rows(named=True):
        reason = [f"({why.index(one['reason']) + 1})" if one["reason"] else ""] if why else []
        table.add_row(*(one[key] or "–" for key in ("attack", "sources", "target")), *cell_texts(one), *reason)
    return table


def _summary(summary: pl.DataFrame, absent: Sequence[str]) -> Table:
    table = Table(title="agreement", box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    table.add_column("table")
    for heading in ("cells", "comparable", "mean |off|", "rank", "in the interval"):
        table.add_column(heading, justify="right")
    for one in summary.iter_rows(named=True):
        if one["table"] not in absent:
            off = "–" if one["off"] is None else f"{one['off']:.2f}"
            rank = "–" if one["rank"] is None else f"{one['rank']:.2f}"
            inside = f"{one['within']} of {one['intervals']}" if one["intervals"] else "–"
            table.add_row(one["table"], str(one["cells"]), str(one["comparable"]), off, rank, inside)
    return table
