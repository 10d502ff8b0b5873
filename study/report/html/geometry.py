"""Makes the section of geometry probes: tables of gradient cosines between models, and the figures of every probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from study.geometry import figures
from study.geometry.probe_rows import probe_rows
from study.geometry.spec import Probe
from study.report.figures import Album, Drawing, names_as_text
from study.report.html.components import HtmlTable, TableCell, number_cell, percent_cell, text_cells
from study.report.html.report_data import ReportData

_MOST_IMAGES = 2


@dataclass(frozen=True)
class GeometryResults:
    """The results of geometry probes.

    `probes` is a table that lists all probes. `results` has, for each probe with rows, a table of cosines and the
    figures. The table is None if the probe has no cosines of plain gradients.
    """

    probes: HtmlTable
    results: Sequence[tuple[HtmlTable | None, Sequence[Drawing]]]


def geometry(data: ReportData, album: Album) -> GeometryResults | None:
    """Return the results of the geometry probes; None if the spec has no probes."""
    if not data.spec.geometry:
        return None
    listed, results = [], []
    for name, probe in data.spec.geometry.items():
        rows = probe_rows(data.run, name, probe)
        listed.append([*text_cells(name, probe.probe), number_cell(rows["image"].n_unique()), number_cell(rows.height)])
        if not rows.is_empty():
            cosines = _cosines(data, name, rows) if probe.probe == "gradient-cosine" else None
            results.append((cosines, _drawings(data, name, probe, rows, album)))
    notes = [
        f"If a probe has a figure for each image, only the first {_MOST_IMAGES} images are shown here. `study geometry "
        "RUN --figures DIR` draws all figures."
    ]
    return GeometryResults(HtmlTable("Probes", ["probe", "kind", "images", "rows"], listed, notes=notes), results)


def _drawings(data: ReportData, name: str, probe: Probe, rows: pl.DataFrame, album: Album) -> list[Drawing]:
    draw = {
        "gradient-cosine": figures.cosines,
        "regions": figures.regions,
        "linearity": figures.linearity,
        "intervals": figures.intervals,
    }[probe.probe]
    if probe.probe in {"regions", "linearity"}:
        few = rows["image"].unique(maintain_order=True).head(_MOST_IMAGES)
        rows = rows.filter(pl.col("image").is_in(few.implode()))
    with names_as_text():
        drawn = list(draw(probe, rows, data.spec.labels))
    added = [album.add(f"geometry-{name}-{part}", figure, f"{name}: {part}") for part, figure in drawn]
    return [one for one in added if one is not None]


def _cosines(data: ReportData, name: str, rows: pl.DataFrame) -> HtmlTable | None:
    """Return the table of the mean cosine for every pair of models, as in table 33 of Liu et al. 2017.

    Only gradients without smoothing count. Return None if there are none.
    """
    mean = [pl.col("cosine").mean(), pl.col("cosine").count().alias("images")]
    known = {}
    for one in rows.filter(pl.col("copies").is_null()).group_by("first", "second").agg(mean).iter_rows(named=True):
        known[one["first"], one["second"]] = one
        known.setdefault((one["second"], one["first"]), one)
    models = [model for model in data.spec.models if any(model in pair for pair in known)]
    if not models:
        return None

    def cell(first: str, second: str) -> TableCell:
        one = known.get((first, second))
        if one is None or one["cosine"] is None:
            return percent_cell(None)
        return TableCell(f"{one['cosine']:.3f}", abs(one["cosine"]), f"mean of {one['images']:,} images")

    table = [[TableCell(first), *(cell(first, second) for second in models)] for first in models]
    notes = ["Mean cosine between the input gradients of two models. The colour shows its absolute value."]
    return HtmlTable(f"{name}: gradients", ["model", *models], table, grid=True, notes=notes)
