"""Writes tables in several formats: terminal, Markdown, LaTeX with booktabs or siunitx, Typst, and CSV."""

from __future__ import annotations

import csv as csv_format
import io
import re
from collections.abc import Callable, Iterable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from study.report.tables.grid import Cell, Grid, grid
from study.report.tables.layout import Layout, TableRate, TableStyle
from study.report.wording import fixed

_LATEX = {
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "°": r"$^{\circ}$",
    "<": "$<$",
    ">": "$>$",
    "|": r"\textbar{}",
}
_MATHS = re.compile(r"(\$[^$]+\$)")

_TYPST = r"\`*_#$<>@[]~/'" + '"'

_RAISED = {"*": "*", "°": r"\circ"}

COLUMNS = (
    *("experiment", "goal", "attack", "variant", "sources", "target", "metric", "top", "value", "std", "low", "high"),
    *("images", "seeds", "rmsd", "relation", "best", "clean", "clean_correct", "clean_correct_images"),
)
"""The columns of the CSV.

`value`, `std`, `low` and `high` are in percent and not rounded. `low` and `high` are the 95 % interval. `images` is the
number of clean images, counted once for all seeds. `clean` is the clean accuracy of the target in percent, empty if it
is not known. `clean_correct_images` is the number of images that the target classifies correctly when clean, and
`clean_correct` is the rate in percent over these images. Names are those of the spec."""


def rich(layout: Layout, columns: Sequence[int] | None = None) -> Table:
    """Return a table for the terminal. `columns`: the indices of the grid's columns to show; None for all columns."""
    made = grid(layout)
    columns = range(len(made.columns)) if columns is None else columns
    table = Table(title=layout.title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for corner in made.corner:
        table.add_column(corner)
    for at in columns:
        table.add_column(made.columns[at], justify="right", no_wrap=True)
    for section in made.sections:
        table.add_section()
        for index, (name, cells) in enumerate(section.rows):
            shown = (_rich_cell(cells[at], layout.style) for at in columns)
            table.add_row("" if index else section.heading, name, *shown)
    if made.last is not None:
        table.add_section()
        table.add_row(made.last[0], "", *(made.last[1][at] for at in columns), style="dim")
    return table


def _rich_cell(cell: Cell, style: TableStyle) -> Text:
    if not isinstance(cell, TableRate):
        return Text("–" if cell is None else cell)
    return Text(cell.text(style=style) + cell.mark, style="bold" if cell.best else "" if cell.black else "dim")


def markdown(layouts: Iterable[Layout]) -> str:
    """Return Markdown tables. The heading of a section is in its first row. The best rates are bold."""
    return "\n".join(_markdown_table(grid(layout)) for layout in layouts)


def _markdown_table(made: Grid) -> str:
    layout = made.layout
    lines = [f"**{_marked(layout.title)}**", ""]
    lines.append(_piped([*made.corner, *map(_marked, made.columns)]))
    lines.append(_piped(["---", "---", *["---:"] * len(made.columns)]))
    for section in made.sections:
        for index, (name, cells) in enumerate(section.rows):
            first = "" if index else _marked(section.heading)
            lines.append(_piped([first, _marked(name), *(_markdown_cell(cell, layout.style) for cell in cells)]))
    if made.last is not None:
        lines.append(_piped([made.last[0], "", *made.last[1]]))
    lines += ["", *(f"{_marked(note)}  " for note in layout.notes), ""]
    return "\n".join(lines)


def _markdown_cell(cell: Cell, style: TableStyle) -> str:
    if not isinstance(cell, TableRate):
        return "–" if cell is None else cell
    text = _marked(cell.text(style=style))
    if not cell.black:
        return f"{text}{_marked(cell.mark)}"
    return f"**{text}**" if cell.best else text


def latex(layouts: Iterable[Layout]) -> str:
    r"""Return LaTeX: a `table` environment for each table. The document needs \usepackage{booktabs}."""
    return "\n".join(_latex_table(made, _latex_cell, ["r"] * len(made.columns)) for made in map(grid, layouts))


def siunitx(layouts: Iterable[Layout]) -> str:
    r"""Return LaTeX as `latex` does, with columns of the package siunitx, which align numbers at their decimal points.

    If rates have intervals or a second rate in parentheses, the columns are centred text. A comment at the top names
    the packages that the document needs.
    """
    needs = "% \\usepackage{booktabs,siunitx}  \\sisetup{detect-weight, mode=text, separate-uncertainty}\n"
    return needs + "\n".join(_latex_table(made, _siunitx_cell, _siunitx_columns(made)) for made in map(grid, layouts))


def _latex_table(made: Grid, written: Callable[[Cell, TableStyle], str], columns: Sequence[str]) -> str:
    layout = made.layout
    width, heads = 1 + len(made.columns), [escaped(head) for head in made.columns]
    # In a column of numbers, siunitx accepts text only in braces.
    heads = [f"{{{head}}}" if kind.startswith("S") else head for head, kind in zip(heads, columns, strict=True)]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped('. '.join([layout.title, *layout.notes]))}.}}",
        rf"\label{{tab:{layout.experiment}-{layout.goal}}}",
        rf"\begin{{tabular}}{{l{''.join(columns)}}}",
        r"\toprule",
        _ended([made.corner[1].capitalize(), *heads]),
    ]
    for section in made.sections:
        lines += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\textit{{{escaped(section.heading)}}}}} \\"]
        lines += [
            _ended([escaped(name), *(written(cell, layout.style) for cell in cells)]) for name, cells in section.rows
        ]
    if made.last is not None:
        cells = (written(cell or "", layout.style) for cell in made.last[1])
        lines += [r"\midrule", _ended([made.last[0].capitalize(), *cells])]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _latex_cell(cell: Cell, style: TableStyle) -> str:
    if not isinstance(cell, TableRate):
        return "--" if cell is None else escaped(cell)
    text = cell.text(r"$\pm$", style)
    if not cell.black:
        return rf"{text}$^{{{_RAISED[cell.mark]}}}$"
    return rf"\textbf{{{text}}}" if cell.best else text


def _siunitx_columns(made: Grid) -> list[str]:
    """Return the LaTeX types of the columns.

    A column of numbers has the siunitx type for its digits, and space for the mark of white-box and grey-box rates.
    """
    if made.layout.style.intervals or made.layout.style.clean_correct:
        return ["c"] * len(made.columns)
    kinds = []
    for place in range(len(made.columns)):
        cells = [cells[place] for section in made.sections for _, cells in section.rows]
        parts = [cell.parts(made.layout.style) for cell in cells if isinstance(cell, TableRate)]
        numbers = [*(value for value, *_ in parts), *(cell for cell in cells if isinstance(cell, str))]
        spreads = [spread for _, spread, _ in parts if spread]
        decimals = max((len(text.partition(".")[2]) for text in (*numbers, *spreads) if _is_number(text)), default=0)
        spread = f"({2 + decimals})" if spreads else ""
        mark = ",table-space-text-post={$^{*}$}" if parts else ""
        kinds.append(f"S[table-format=3.{decimals}{spread}{mark}]")
    return kinds


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?", text) is not None


def _siunitx_cell(cell: Cell, style: TableStyle) -> str:
    if not isinstance(cell, TableRate):
        text = "--" if cell is None else escaped(cell)
        return text if _is_number(text) or not text else f"{{{text}}}"
    if style.intervals or style.clean_correct:
        return _latex_cell(cell, style)
    text, spread, _ = cell.parts(style)
    if spread:
        # siunitx requires that a number and its uncertainty have the same number of decimals.
        text = rf"{fixed(cell.value, len(spread.partition('.')[2]))} \pm {spread}"
    if not cell.black:
        return rf"{text}{{$^{{{_RAISED[cell.mark]}}}$}}"
    return rf"\bfseries {text}" if cell.best else text


def typst(layouts: Iterable[Layout]) -> str:
    """Return Typst: a `figure` for each table. The document needs no package."""
    return "\n".join(_typst_table(grid(layout)) for layout in layouts)


def _typst_table(made: Grid) -> str:
    layout = made.layout
    width = 1 + len(made.columns)
    head = ", ".join(f"[{_typst_text(one)}]" for one in (made.corner[1].capitalize(), *made.columns))
    lines = [
        "#figure(",
        "  table(",
        f"    columns: {width},",
        f"    align: (left, {', '.join(['right'] * (width - 1))},),",
        "    stroke: none,",
        "    table.hline(),",
        f"    table.header({head}),",
    ]
    for section in made.sections:
        lines.append("    table.hline(stroke: 0.5pt),")
        lines.append(f"    table.cell(colspan: {width})[_{_typst_text(section.heading)}_],")
        for name, cells in section.rows:
            shown = ", ".join(f"[{_typst_cell(cell, layout.style)}]" for cell in cells)
            lines.append(f"    [{_typst_text(name)}], {shown},")
    if made.last is not None:
        lines.append("    table.hline(stroke: 0.5pt),")
        lines.append(
            f"    [{made.last[0].capitalize()}], {', '.join(f'[{_typst_text(one)}]' for one in made.last[1])},"
        )
    caption = _typst_text(". ".join([layout.title, *layout.notes]))
    label = re.sub(r"[^\w.-]", "-", f"tab-{layout.experiment}-{layout.goal}")
    return "\n".join([*lines, "    table.hline(),", "  ),", f"  caption: [{caption}.],", f") <{label}>", ""])


def _typst_cell(cell: Cell, style: TableStyle) -> str:
    if not isinstance(cell, TableRate):
        return "–" if cell is None else _typst_text(cell)
    text = _typst_text(cell.text(style=style))
    if not cell.black:
        return f"{text}#super[{_typst_text(cell.mark)}]"
    return f"*{text}*" if cell.best else text


def _typst_text(text: str) -> str:
    """Return `text` with the special characters of Typst escaped."""
    return "".join(rf"\{mark}" if mark in _TYPST else mark for mark in text)


def csv(layouts: Iterable[Layout]) -> str:
    """Return CSV: a first line with the names of COLUMNS, then a line for each rate."""
    file = io.StringIO()
    writer = csv_format.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for layout in layouts:
        known = zip(layout.targets, layout.clean, strict=False)
        clean = {target: repr(100 * one.share) for target, one in known if one is not None and one.images}
        for row in layout.rows:
            for target, one in zip(layout.targets, row.rates, strict=True):
                if one is not None:
                    craft = (layout.experiment, layout.goal, row.attack, row.variant, row.sources, target)
                    ends = ("" if number is None else repr(number) for number in (one.std, one.low, one.high))
                    counts = (one.images, one.seeds, repr(one.rmsd))
                    marks = (one.relation, str(one.best).lower(), clean.get(target, ""))
                    judged = (one.clean_correct, one.clean_correct_images)
                    last = ("" if number is None else repr(number) for number in judged)
                    writer.writerow((*craft, layout.metric, layout.top, repr(one.value), *ends, *counts, *marks, *last))
    return file.getvalue()


def escaped(text: str) -> str:
    r"""Return `text` with the special characters of LaTeX escaped. Formulas between dollars, such as `$\mu$`, stay."""
    parts = _MATHS.split(text)
    return "".join(
        part if odd % 2 else "".join(_LATEX.get(mark, mark) for mark in part) for odd, part in enumerate(parts)
    )


def _ended(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _piped(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _marked(text: str) -> str:
    return "".join(rf"\{mark}" if mark in r"\`*_[]<>|" else mark for mark in text)
