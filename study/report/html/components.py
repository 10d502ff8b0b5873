"""Defines the tables of the HTML report as data: cells, tables, and a limit of the number of cells in a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from study.report.html.colours import LEVELS
from study.report.wording import fixed

_MOST_ROWS, _MOST_CELLS = 300, 24_000


@dataclass(frozen=True)
class TableCell:
    """A cell of a table.

    Attributes:
        text: The text that is shown.
        share: A share 0..1 that decides the background colour; None for no colour.
        tip: A text that is shown when the mouse is over the cell.
        number: Whether the text is a number. Numbers are aligned to the right.
        relation: The relation of the target to the sources. White-box and grey-box cells have an outline.
        span: An interval that is drawn below the text: its low end, the value, and its high end (0..1).
    """

    text: str
    share: float | None = None
    tip: str = ""
    number: bool = False
    relation: str = "black"
    span: tuple[float, float, float] | None = None

    @property
    def span_style(self) -> str:
        """The CSS variables for the interval `span`, in percent."""
        assert self.span is not None, "the template uses this property only for cells with a span"
        return ";".join(f"--{name}:{100 * at:.1f}%" for name, at in zip("lah", self.span, strict=True))

    @property
    def numeric(self) -> bool:
        return self.number or self.share is not None

    @property
    def classes(self) -> str:
        """The CSS classes of the cell, separated by spaces."""
        colour = "" if self.share is None else f"h{round(self.share * LEVELS)}"
        outline = "" if self.relation == "black" else self.relation[0]
        return " ".join(name for name in ("n" if self.numeric else "", colour, outline) if name)


MISSING = TableCell("–", number=True)


def text_cells(*values: object) -> list[TableCell]:
    return [TableCell(str(value)) for value in values]


def number_cell(value: float | None, form: str = ",") -> TableCell:
    """Return a cell with a number in the format `form` (by default with thousands separators); a dash for None."""
    return MISSING if value is None else TableCell(format(value, form), number=True)


def range_cell(low: float | None, high: float | None) -> TableCell:
    return MISSING if low is None or high is None else TableCell(f"{low:.3g} to {high:.3g}", number=True)


def percent_cell(share: float | None, tip: str = "", decimals: int = 0) -> TableCell:
    """Return a coloured cell with a share 0..1 as a percentage; a dash for None."""
    return MISSING if share is None else TableCell(fixed(100 * share, decimals), share, tip)


@dataclass(frozen=True)
class HtmlTable:
    """A table that readers of the page can sort and filter.

    `code` is Python code that returns the whole table. The page shows this code if only a part of the table fits. With
    `grid`, numbers are centred. The rows in `foot` are always below the other rows, and are never sorted or filtered.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[TableCell]]
    code: str = ""
    grid: bool = False
    notes: Sequence[str] = ()
    foot: Sequence[Sequence[TableCell]] = ()

    @property
    def numeric(self) -> list[bool]:
        """For each column, whether it has numbers. This is decided by the first row."""
        return [cell.numeric for cell in self.rows[0]] if self.rows else [False] * len(self.head)


@dataclass
class CellBudget:
    """The number of table cells that still fit into the page."""

    cells: int = _MOST_CELLS

    def rows(self, table: HtmlTable) -> Sequence[Sequence[TableCell]]:
        """Return the first rows of the table that still fit into the page. Their cells are subtracted from the budget.

        The result has at least 20 and at most 300 rows, or all rows of a shorter table.
        """
        width = max(1, len(table.head))
        shown = table.rows[: min(_MOST_ROWS, max(20, self.cells // width))]
        self.cells -= len(shown) * width
        return shown
