"""Formats of tables: for the terminal, Markdown, LaTeX with booktabs, and CSV with one line per rate."""

from __future__ import annotations

import csv as csv_format
import io
from collections.abc import Iterable
from itertools import groupby

from rich import box
from rich.table import Table
from rich.text import Text

from study.report.tables.layout import Layout, TableRate

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

_RAISED = {"*": "*", "°": r"\circ"}

COLUMNS = (
    *("experiment", "goal", "attack", "variant", "sources", "target", "metric", "top", "value", "std", "images"),
    *("seeds", "rmsd", "relation", "best", "clean"),
)
"""Columns of the CSV. `value` and `std` are in percent, unrounded. `images` counts clean images once for all seeds.
`clean` is the clean accuracy of the target in percent, empty if unknown."""


def rich(layout: Layout) -> Table:
    """A table for the terminal."""
    table = Table(title=layout.title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    table.add_column("attack")
    table.add_column("sources")
    for heading in ("RMSD", *layout.targets):
        table.add_column(heading, justify="right")
    for variant, section in groupby(layout.rows, key=lambda row: row.variant):
        table.add_section()
        for index, row in enumerate(section):
            rates = (Text("–") if rate is None else _rich_rate(rate) for rate in row.rates)
            table.add_row("" if index else variant, row.sources.replace("+", " + "), row.rmsd_text, *rates)
    if layout.clean_accuracies:
        table.add_section()
        table.add_row("clean images", "", "", *layout.clean_accuracies, style="dim")
    return table


def _rich_rate(rate: TableRate) -> Text:
    style = "bold" if rate.best else "" if rate.black else "dim"
    return Text(rate.text() + rate.mark, style=style)


def markdown(layouts: Iterable[Layout]) -> str:
    """Pipe tables. The attack stands in the first row of its section; the best rate is bold."""
    parts = []
    for layout in layouts:
        lines = [f"**{_marked(layout.title)}**", ""]
        lines.append(_piped(["attack", "sources", "RMSD", *map(_marked, layout.targets)]))
        lines.append(_piped(["---", "---", *["---:"] * (1 + len(layout.targets))]))
        for variant, section in groupby(layout.rows, key=lambda row: row.variant):
            for index, row in enumerate(section):
                first = "" if index else _marked(variant)
                sources = _marked(row.sources.replace("+", " + "))
                lines.append(_piped([first, sources, row.rmsd_text, *map(_markdown_rate, row.rates)]))
        if layout.clean_accuracies:
            lines.append(_piped(["clean images", "", "", *layout.clean_accuracies]))
        lines += ["", *(f"{_marked(note)}  " for note in layout.notes), ""]
        parts.append("\n".join(lines))
    return "\n".join(parts)


def latex(layouts: Iterable[Layout]) -> str:
    """A `table` environment for each; the document needs \\usepackage{booktabs}. The attack heads its section."""
    return "\n".join(_latex_table(layout) for layout in layouts)


def csv(layouts: Iterable[Layout]) -> str:
    """One line per rate, with a heading: COLUMNS."""
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
                    shown = ("" if one.std is None else repr(one.std), one.images, one.seeds, repr(one.rmsd))
                    marks = (one.relation, str(one.best).lower(), clean.get(target, ""))
                    writer.writerow((*craft, layout.metric, layout.top, repr(one.value), *shown, *marks))
    return file.getvalue()


def escaped(text: str) -> str:
    """Text with the special characters of LaTeX escaped."""
    return "".join(_LATEX.get(mark, mark) for mark in text)


def _latex_table(layout: Layout) -> str:
    width = 2 + len(layout.targets)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped('. '.join([layout.title, *layout.notes]))}.}}",
        rf"\label{{tab:{layout.experiment}-{layout.goal}}}",
        rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}",
        r"\toprule",
        _ended(["Sources", "RMSD", *map(escaped, layout.targets)]),
    ]
    for variant, section in groupby(layout.rows, key=lambda row: row.variant):
        lines += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\textit{{{escaped(variant)}}}}} \\"]
        for row in section:
            sources = escaped(row.sources.replace("+", " + "))
            lines.append(_ended([sources, row.rmsd_text, *map(_latex_rate, row.rates)]))
    if layout.clean_accuracies:
        lines += [r"\midrule", _ended(["Clean images", "", *map(escaped, layout.clean_accuracies)])]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _latex_rate(rate: TableRate | None) -> str:
    if rate is None:
        return "--"
    text = rate.text(r"$\pm$")
    if not rate.black:
        return rf"{text}$^{{{_RAISED[rate.mark]}}}$"
    return rf"\textbf{{{text}}}" if rate.best else text


def _markdown_rate(rate: TableRate | None) -> str:
    if rate is None:
        return "–"
    if not rate.black:
        return f"{rate.text()}{_marked(rate.mark)}"
    return f"**{rate.text()}**" if rate.best else rate.text()


def _ended(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _piped(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _marked(text: str) -> str:
    return "".join(rf"\{mark}" if mark in r"\`*_[]<>|" else mark for mark in text)
