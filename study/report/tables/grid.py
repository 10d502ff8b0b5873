"""Arranges a table as a grid of cells, which each file format then writes.

An attack is either a section of rows or a column.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from study.report.tables.layout import Layout, TableRate, TableRow, points
from study.report.wording import rmsd_range

MEAN = "black-box mean"
"""The heading of a column or row of means."""


Cell = TableRate | str | None
"""A cell of a grid: a rate or a text; None if the run has no rows for it, or for a mean without black-box rates."""


@dataclass(frozen=True)
class Section:
    """Rows with a common heading, which is an attack or a set of source models.

    Each row has a name, and one cell for each column.
    """

    heading: str
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True)
class Grid:
    """A table as a grid of cells.

    Attributes:
        corner: Two headings: of the column with the names of sections, and of the column with the names of rows.
        columns: The heading of each column of cells.
        sections: The sections of rows.
        last: The name and the cells of a further row below all sections; None without such a row.
        layout: The table from which the grid is made.
    """

    corner: tuple[str, str]
    columns: tuple[str, ...]
    sections: tuple[Section, ...]
    last: tuple[str, tuple[str, ...]] | None
    layout: Layout


def grid(layout: Layout) -> Grid:
    """Return the grid of a table. The style of the table decides whether attacks are columns or sections."""
    return _across(layout) if layout.style.across else _down(layout)


def _down(layout: Layout) -> Grid:
    """Return a grid with attacks as sections, source sets as rows and targets as columns."""
    style = layout.style
    extra = (MEAN,) if style.mean else ()
    sections = []
    for _, group in groupby(layout.rows, key=lambda row: row.variant):
        rows = list(group)
        lines: list[tuple[str, tuple[Cell, ...]]] = []
        for row in rows:
            cells: list[Cell] = [row.rmsd_text, *row.rates]
            if style.mean:
                cells.append(row.mean)
            lines.append((style.sources(row.sources), tuple(cells)))
        sections.append(Section(rows[0].shown(style), tuple(lines)))
    clean = ("", *layout.clean_accuracies, *("" for _ in extra)) if layout.clean_accuracies else None
    return Grid(
        ("attack", "sources"),
        ("RMSD", *map(style.named, layout.targets), *extra),
        tuple(sections),
        None if clean is None else ("clean images", clean),
        layout,
    )


def _across(layout: Layout) -> Grid:
    """Return a grid with source sets as sections, targets as rows and attacks as columns."""
    style, attacks = layout.style, points(layout.rows)
    shown = {row.variant: row.shown(style) for row in layout.rows}
    sections = []
    for sources in dict.fromkeys(row.sources for row in layout.rows):
        known = {row.variant: row for row in layout.rows if row.sources == sources}
        rows: list[tuple[str, tuple[Cell, ...]]] = []
        for at, target in enumerate(layout.targets):
            rates = tuple(known[one].rates[at] if one in known else None for one in attacks)
            rows.append((style.named(target), rates))
        if style.mean:
            rows.append((MEAN, tuple(known[one].mean if one in known else None for one in attacks)))
        rows.append(("RMSD", tuple(_rmsd(known.get(one)) for one in attacks)))
        sections.append(Section(style.sources(sources), tuple(rows)))
    return Grid(("sources", "target"), tuple(shown[one] for one in attacks), tuple(sections), None, layout)


def _rmsd(row: TableRow | None) -> str:
    return "" if row is None else rmsd_range([rate.rmsd for rate in row.rates if rate is not None])
