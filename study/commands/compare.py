"""`study compare`: a run's numbers beside the published ones, cell by cell, and how far apart they are."""

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

from study.commands.geometry import plain_cosines
from study.errors import StudyError
from study.papers import paper_comparison, published, registry
from study.papers.published_matching import match
from study.results import integrity
from study.results.run_reader import RunData, open_run
from study.spec.schema import Spec
from study.terminal import prose

_IMAGES = {
    "liu2017": "100 of ILSVRC 2012's validation images, right for its five models",
    "smoothed2019": "5,000 images of each data set, drawn at random, right for its models",
    "sgm2020": "5,000 of ILSVRC 2012's validation images, drawn at random, right for its sources; five runs",
}
_OTHER_IMAGES = {
    ("liu2017", "7"): "all of ILSVRC 2012's validation images",
    ("liu2017", "11"): "100 images with 100 draws of noise each",
}


@dataclass(frozen=True)
class CompareOptions:
    """What is asked for: one paper or those that the spec names, every row or the comparable ones, JSON or text.

    `spec` may say anew which tables are reproduced: a run keeps the spec that it began with.
    """

    paper: str | None = None
    everything: bool = False
    as_json: bool = False
    spec: Path | None = None


@integrity.reads
def compare(run: str, console: Console, wish: CompareOptions) -> None:
    """Print the comparison of the run at `run`. Raises StudyError where there is no run, or nothing to compare."""
    finished = open_run(run, wish.spec)
    spec, selected = finished.spec, finished.selected
    asked = _papers(spec, wish.paper)
    compared = beside_papers(run, finished, asked)
    digests = {name: one.get("digest") for name, one in finished.models.items()}
    told = {paper: told_of(paper, compared, spec, digests, selected) for paper in asked}
    if wish.as_json:
        prose.exactly(console, as_json(compared, told, wish))
        return
    for paper in asked:
        _print_paper(compared.filter(paper=paper), told[paper], console, wish)


def beside_papers(run: str, finished: RunData, asked: Sequence[str]) -> pl.DataFrame:
    """All numbers of the papers `asked` for with those of the run at `run` beside them, as `beside.compare` gives them:
    what `study compare` prints and the report shows."""
    matched = match(pl.concat([published.load(paper) for paper in asked]), finished.spec)
    return paper_comparison.compare(
        matched, finished.rows, finished.spec, finished.selected, plain_cosines(run, finished.spec)
    )


def told_of(
    paper: str, compared: pl.DataFrame, spec: Spec, digests: Mapping[str, object], selected: int
) -> dict[str, Any]:
    """What stands behind a paper's comparison: whose images, how many, and whose weights each model has."""
    mine = compared.filter(pl.col("paper") == paper, pl.col("experiment").is_not_null())
    used = {name for column in ("our_sources", "target") for one in mine[column] for name in one.split("+") if name}
    models = [name for name in spec.models if name in used]
    return {
        "paper": registry.PAPERS[paper],
        "images": {"there": _IMAGES[paper], "here": selected},
        "models": {
            name: {"weights": one, "digest": digests.get(name)}
            for name, one in paper_comparison.weights(paper, spec, models).items()
        },
    }


def as_json(compared: pl.DataFrame, told: Mapping[str, Any], wish: CompareOptions) -> str:
    """The whole comparison: `papers`, `tables` (their summaries) and `cells`."""
    cells = compared if wish.everything else compared.filter("comparable")
    found = {
        "papers": dict(told),
        "tables": paper_comparison.summary(compared).to_dicts(),
        "cells": [
            {**one, "params": json.loads(one["params"] or "{}")} for one in cells.drop("row").iter_rows(named=True)
        ],
    }
    return json.dumps(found, indent=2)


def _papers(spec: Spec, wanted: str | None) -> list[str]:
    if wanted is not None:
        published.check(wanted)
        return [wanted]
    named = {
        table.partition(":")[0]
        for experiment in spec.experiments.values()
        if experiment.published is not None
        for table in experiment.published.tables
    }
    if not named:
        raise StudyError(
            f"no experiment of {spec.study} says which published table it reproduces",
            accepted="`published: liu2017:1A` in an experiment, or a list of tables",
            todo="add it to the study's YAML and name that file with --spec: it changes no row",
        )
    return [paper for paper in registry.PAPERS if paper in named]


def _print_paper(compared: pl.DataFrame, told: Mapping[str, Any], console: Console, wish: CompareOptions) -> None:
    say = partial(prose.say, console)
    say(f"{told['paper']}\n")
    tables = compared.partition_by("table", maintain_order=True)
    absent = [one["table"][0] for one in tables if one["experiment"].null_count() == one.height]
    for one in tables:
        shown = one if wish.everything else one.filter("comparable")
        reasons = _reasons(one)
        if not shown.is_empty():
            console.print(_cells(shown, [reason for reason, _ in reasons] if wish.everything else []))
        if wish.everything or one["table"][0] not in absent:
            for number, (reason, count) in enumerate(reasons, start=1):
                mark = f"({number}) " if wish.everything else ""
                say(f"  {mark}{count} not comparable: {reason}")
            say("")
    summary = _summary(paper_comparison.summary(compared), absent)
    if summary.row_count:
        console.print(summary)
    if absent:
        say("no cell of these tables is in the spec (--all says why): " + ", ".join(absent))
    tables_here = {(one["paper"][0], one["table"][0]) for one in tables if one["table"][0] not in absent}
    say(f"images: there {told['images']['there']}; here {told['images']['here']}, and not the same ones")
    for key, text in _OTHER_IMAGES.items():
        if key in tables_here:
            say(f"images of table {key[1]} there: {text}")
    for name, one in told["models"].items():
        say(f"weights of {name}: {one['weights']} ({str(one['digest'])[:8]})")
    say("interval: 95 % (Wilson) of ours; off: ours - theirs; rank: Spearman's correlation of ours and theirs\n")


def _reasons(table: pl.DataFrame) -> Sequence[tuple[str, int]]:
    counted = table.filter(~pl.col("comparable")).group_by("reason", maintain_order=True).len()
    return [(reason, count) for reason, count in counted.iter_rows()]


def _cells(compared: pl.DataFrame, reasons: Sequence[str]) -> Table:
    """A published table's numbers, line by line; `reasons` are those to be referred to by their place."""
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
    if reasons:
        table.add_column("why")
    for one in compared.iter_rows(named=True):
        why = [f"({reasons.index(one['reason']) + 1})" if one["reason"] else ""] if reasons else []
        table.add_row(*(one[key] or "–" for key in ("attack", "sources", "target")), *_numbers(one), *why)
    return table


def _numbers(cell: Mapping[str, Any]) -> list[str]:
    decimals = max(1, len(cell["printed"].partition(".")[2]))
    theirs = cell["printed"] + (f" ± {cell['std']:.2f}" if cell["std"] is not None else "")
    if cell["ours"] is None:
        return [theirs, "–", "–", "–"]
    ours = f"{cell['ours']:.{decimals}f}" + (f" ± {cell['ours_std']:.2f}" if cell["ours_std"] is not None else "")
    interval = f"{cell['low']:.0f} to {cell['high']:.0f}" if cell["low"] is not None else "–"
    # Rounded before it is printed: a difference that rounds to 0 has no sign.
    off = round(cell["difference"], decimals) + 0.0
    return [theirs, ours, interval, f"{off:+.{decimals}f}"]


def _summary(summary: pl.DataFrame, absent: Sequence[str]) -> Table:
    table = Table(title="how near", box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
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
