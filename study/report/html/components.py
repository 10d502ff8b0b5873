"""The tables of the HTML report as data: cells, tables, and the number of cells that fit into a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from study.report.html.colours import LEVELS
from study.report.wording import fixed

_MOST_ROWS, _MOST_CELLS = 300, 24_000


@dataclass(frozen=True)
class TableCell:
    """A cell of a table.

    `relation` is that of the target to the sources; white-box and grey-box cells are outlined. `span` draws an interval
    under the text: its low end, the value, and its high end (0..1).
    """

    text: str
    share: float | None = None
    tip: str = ""
    number: bool = False
    relation: str = "black"
    span: tuple[float, float, float] | None = None

    @property
    def span_style(self) -> str:
        """CSS variables of the interval, in percent."""
        assert self.span is not None, "the template asks only where there is one"
        return ";".join(f"--{name}:{100 * at:.1f}%" for name, at in zip("lah", self.span, strict=True))

    @property
    def numeric(self) -> bool:
        return self.number or self.share is not None

    @property
    def classes(self) -> str:
        """CSS classes."""
        colour = "" if self.share is None else f"h{round(self.share * LEVELS)}"
        outline = "" if self.relation == "black" else self.relation[0]
        return " ".join(name for name in ("n" if self.numeric else "", colour, outline) if name)


MISSING = TableCell("–", number=True)


def text_cells(*values: object) -> list[TableCell]:
    return [TableCell(str(value)) for value in values]


def number_cell(value: float | None, form: str = ",") -> TableCell:
    """A number in the format `form` (with thousands separators by default); a dash for None."""
    return MISSING if value is None else TableCell(format(value, form), number=True)


def range_cell(low: float | None, high: float | None) -> TableCell:
    return MISSING if low is None or high is None else TableCell(f"{low:.3g} to {high:.3g}", number=True)


def percent_cell(share: float | None, tip: str = "", decimals: int = 0) -> TableCell:
    """A coloured percentage of a share 0..1; a dash for None."""
    return MISSING if share is None else TableCell(fixed(100 * share, decimals), share, tip)


@dataclass(frozen=True)
class HtmlTable:
    """A table that readers can sort and filter.

    `code` is Python that gives the whole table; the page shows it if the table is cut. The arrow keys move between the
    cells of a `grid`. The rows of the `foot` stay below, whatever is sorted or filtered.
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
        """Whether each column holds numbers."""
        return [cell.numeric for cell in self.rows[0]] if self.rows else [False] * len(self.head)


@dataclass
class CellBudget:
    """The number of table cells that still fit into the page."""

    cells: int = _MOST_CELLS

    def rows(self, table: HtmlTable) -> Sequence[Sequence[TableCell]]:
        """The first rows of the table that fit: at least 20 and at most 300."""
        width = max(1, len(table.head))
        shown = table.rows[: min(_MOST_ROWS, max(20, self.cells // width))]
        self.cells -= len(shown) * width
        return shown
