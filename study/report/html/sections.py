"""Sections of the report that other rooms fill: findings, and the geometry of models. A function for each."""

from __future__ import annotations

import polars as pl

from study.geometry import figures as drawings
from study.geometry.probe_rows import cosine_rows, probe_rows
from study.geometry.spec import Probe
from study.papers.finding_readings import EXPLANATION, readings
from study.papers.findings import evaluate
from study.report.figures import Album, plainly
from study.report.html.data import Gathered
from study.report.html.page import NOTHING, Cell, Room, Table, folded, section, words

_MOST_IMAGES = 2
_SIGNS = {"replicated": "✓ replicated", "not replicated": "✗ not replicated", "undecided": "? undecided"}


def findings(gathered: Gathered, room: Room) -> str:
    """Each claim of the spec and whether the rows bear it out; nothing where the spec claims nothing."""
    if not gathered.spec.findings:
        return ""
    known = cosine_rows(gathered.run, gathered.spec)
    found = evaluate(gathered.finished.rows, gathered.spec, images=gathered.finished.selected, geometry=known)
    lines, parts = [], []
    for one in found.iter_rows(named=True):
        for place, (of, read) in enumerate(readings(one)):
            numbers = [_number(read["effect"]), _span(read["low"], read["high"]), _number(read["p"])]
            said = words(
                one["finding"], "" if place else one["claim"], of, _SIGNS.get(read["verdict"], read["verdict"])
            )
            shown = Cell(f"{one['images'] or 0:,}", number=True)
            lines.append([*said, *numbers, shown, *words(read["reason"], "" if place else one["source"])])
        if one["cells"] and len(one["cells"]) > 1:
            inner = [
                [Cell(each["cell"]), _number(each["effect"]), _span(each["low"], each["high"]),
                 _number(each["p"]), _number(each["holm"]),
                 *words(_SIGNS.get(each["verdict"], each["verdict"]), each["reason"] or "")]
                for each in one["cells"]
            ]  # fmt: skip
            head = ["cell", "effect", "95 %", "p", "p (Holm)", "verdict", "why"]
            parts.append(
                folded(f"{one['finding']}: its {len(inner)} cells", Table(one["finding"], head, inner).html(room))
            )
    head = ["finding", "claim", "of", "verdict", "effect", "95 %", "p", "images", "why", "source"]
    whole = Table("What is claimed, and what the rows say", head, lines, notes=[EXPLANATION]).html(room)
    return section("findings", "Findings", [whole, *parts])


def geometry(gathered: Gathered, drawn: Album, room: Room) -> str:
    """Every probe's figures, of a few images where there is one for each; nothing where the spec asks nothing."""
    parts, lines = [], []
    for name, probe in gathered.spec.geometry.items():
        rows = probe_rows(gathered.run, name, probe)
        lines.append(
            [*words(name, probe.probe), Cell(f"{rows['image'].n_unique():,}", number=True), *words(rows.height)]
        )
        if rows.is_empty():
            continue
        if probe.probe == "gradient-cosine":
            parts.append(_cosines(gathered, name, rows, room))
        parts.append(_plots(gathered, name, probe, rows, drawn))
    head = ["probe", "kind", "images", "rows"]
    notes = ["Where a figure is of one image, those of a few are here. All: `study geometry RUN --figures DIR`."]
    whole = [Table("Probes", head, lines, notes=notes).html(room)] if lines else []
    return section("geometry", "Geometry of models", [*whole, *parts])


def _plots(gathered: Gathered, name: str, probe: Probe, rows: pl.DataFrame, drawn: Album) -> str:
    makers = {
        "gradient-cosine": drawings.cosines,
        "regions": drawings.regions,
        "linearity": drawings.linearity,
        "intervals": drawings.intervals,
    }
    if probe.probe in {"regions", "linearity"}:
        few = rows["image"].unique(maintain_order=True).head(_MOST_IMAGES)
        rows = rows.filter(pl.col("image").is_in(few.implode()))
    with plainly():
        made = list(makers[probe.probe](probe, rows, gathered.spec.labels))
    inside = "".join(drawn.add(f"geometry-{name}-{part}", figure, f"{name}: {part}") for part, figure in made)
    return f'<div class="plots">{inside}</div>' if inside else ""


def _cosines(gathered: Gathered, name: str, rows: pl.DataFrame, room: Room) -> str:
    """Mean cosine of every pair of models: Liu et al. 2017, table 33."""
    mean = [pl.col("cosine").mean(), pl.col("cosine").count().alias("images")]
    means = rows.filter(pl.col("copies").is_null()).group_by("first", "second").agg(mean)
    known = {(one["first"], one["second"]): one for one in means.iter_rows(named=True)}
    known |= {(second, first): one for (first, second), one in known.items() if (second, first) not in known}
    models = [model for model in gathered.spec.models if any(model in pair for pair in known)]
    lines = []
    for first in models:
        line = [Cell(first)]
        for second in models:
            one = known.get((first, second))
            if one is None or one["cosine"] is None:
                line.append(NOTHING)
            else:
                line.append(Cell(f"{one['cosine']:.3f}", abs(one["cosine"]), f"mean of {one['images']:,} images"))
        lines.append(line)
    notes = ["Mean cosine between the image gradients of two models; the colour is its size, whatever its sign."]
    return Table(f"{name}: gradients", ["model", *models], lines, grid=True, notes=notes).html(room) if lines else ""


def _number(value: float | None) -> Cell:
    return NOTHING if value is None else Cell(f"{value:.3g}", number=True)


def _span(low: float | None, high: float | None) -> Cell:
    return NOTHING if low is None or high is None else Cell(f"{low:.3g} to {high:.3g}", number=True)
