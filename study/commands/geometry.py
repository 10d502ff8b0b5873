"""`study geometry`: print the results of a run's geometry probes as tables, and draw figures of these results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table

from study.errors import StudyError
from study.geometry import analysis
from study.geometry.probe_rows import probe_rows
from study.geometry.spec import Probe
from study.results import integrity
from study.results.run_reader import open_run
from study.terminal.prose import say
from study.terminal.screen import counted


@integrity.reads
def print_geometry(run: str, console: Console, figures: Path | None = None) -> None:
    """Print the results of the geometry probes of the run at `run`.

    If `figures` is given, also write the figures into this folder. Raises StudyError if there is no run, if its spec
    has no probes, or if a Parquet file is damaged.
    """
    spec = open_run(run).spec
    if not spec.geometry:
        raise StudyError(
            f"{run} has no probes: its spec has no `geometry` key", todo="add `geometry:` to the spec and launch it"
        )
    for name, probe in spec.geometry.items():
        rows = probe_rows(run, name, probe)
        if rows.is_empty():
            say(console, f"{name}: no rows yet")
            continue
        order = [one for one in spec.models if one in set(rows[_model(probe)])]
        rows = rows.sort(pl.col(_model(probe)).cast(pl.Enum(order)), maintain_order=True)
        for table in _TABLES[probe.probe](name, probe, rows):
            _print(table, console)
        if figures is not None:
            from study.geometry.figures import write

            written = write(figures, name, probe, rows, spec.labels)
            say(console, f"{counted(len(written), 'figure')} in {figures}")


def _print(table: Table, console: Console) -> None:
    """Print a table, and its title and caption as separate lines, because rich would wrap them to the table's width."""
    lines = (table.title, table.caption)
    table.title = table.caption = None
    for part in (lines[0], table, lines[1]):
        if part is not None:
            console.print(part, markup=False, highlight=False, soft_wrap=part is not table)
    console.print()


def _model(probe: Probe) -> str:
    return "first" if probe.probe == "gradient-cosine" else "model"


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for one in others:
        table.add_column(one, justify="right", no_wrap=True)
    return table


def _cosines(name: str, probe: Probe, rows: pl.DataFrame) -> Iterator[Table]:
    means = analysis.mean_cosines(rows)
    models = means["first"].unique(maintain_order=True).to_list()
    images = int(means["images"].max() or 0)  # type: ignore[arg-type]
    for (copies, sigma), part in means.group_by("copies", "sigma", maintain_order=True):
        how = "" if copies is None else f", {copies} copies, sigma {sigma:g}"
        table = _table(f"{name}: mean cosine of gradients, {counted(images, 'image')}{how}", "", *models)
        values = {(one, other): value for one, other, value in part.select("first", "second", "cosine").iter_rows()}
        for one in models:
            table.add_row(one, *(_number(values[one, other], 3) for other in models))
        yield table


def _regions(name: str, probe: Probe, rows: pl.DataFrame) -> Iterator[Table]:
    found = analysis.labels_in_planes(rows).join(analysis.diameters(rows), on=["image", "model"], maintain_order="left")
    table = _table(
        f"{name}: planes of {probe.points} x {probe.points} points, RMSD up to {probe.extent:g}",
        "model", "planes", "labels", "regions", "true label", "along", "across",
    )  # fmt: skip
    for (model,), part in found.group_by("model", maintain_order=True):
        mean = part.select(pl.col("labels", "regions", "true_share", "back", "ahead", "down", "up").mean()).row(
            0, named=True
        )
        table.add_row(
            str(model),
            str(part.height),
            _number(mean["labels"], 1),
            _number(mean["regions"], 1),
            _number(100 * mean["true_share"], 1) + " %",
            f"-{_number(mean['back'], 0)} to {_number(mean['ahead'], 0)}",
            f"-{_number(mean['down'], 0)} to {_number(mean['up'], 0)}",
        )
    table.caption = (
        "Means over planes. along, across: distance from the image (RMSD) up to which the true label is predicted"
    )
    yield table


def _linearity(name: str, probe: Probe, rows: pl.DataFrame) -> Iterator[Table]:
    found = analysis.straightness(rows)
    table = _table(
        f"{name}: logits along the {probe.along.title if probe.along else ''}",
        "model", "images", "true label: slope", "R²", "other labels: slope", "R²",
    )  # fmt: skip
    for (model,), part in found.group_by("model", maintain_order=True):
        cells = []
        for true in (True, False):
            mean = part.filter(pl.col("true") == true).select(pl.col("slope", "r2").mean()).row(0)
            cells += [_number(mean[0], 3), _number(mean[1], 3)]
        table.add_row(str(model), str(part["image"].n_unique()), *cells)
    table.caption = "Means over images. slope: change of the logit per RMSD of 1; R²: fit of a straight line"
    yield table


def _intervals(name: str, probe: Probe, rows: pl.DataFrame) -> Iterator[Table]:
    found = analysis.interval_counts(rows)
    table = _table(
        f"{name}: intervals of wrong labels along the {probe.along.title if probe.along else ''}",
        "model", "images", "intervals", "most", "right again", "first wrong at",
    )  # fmt: skip
    for (model,), part in found.group_by("model", maintain_order=True):
        mean = part.select(pl.col("intervals", "returns", "least").mean(), pl.col("intervals").max().alias("most"))
        values = mean.row(0, named=True)
        table.add_row(
            str(model),
            str(part.height),
            _number(values["intervals"], 2),
            str(values["most"]),
            _number(100 * values["returns"], 0) + " %",
            _number(values["least"], 2),
        )
    table.caption = (
        "Means over images. right again: share of images whose label is right again beyond a wrong label; "
        "first wrong at: smallest RMSD with a wrong label"
    )
    yield table


def _number(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value:.{decimals}f}"


_TABLES: Mapping[str, Callable[[str, Probe, pl.DataFrame], Iterator[Table]]] = {
    "gradient-cosine": _cosines,
    "regions": _regions,
    "linearity": _linearity,
    "intervals": _intervals,
}
