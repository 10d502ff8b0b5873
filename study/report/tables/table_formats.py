"""Tables as text that other programs read: Markdown, LaTeX with booktabs, and CSV with a line for every number."""

from __future__ import annotations

import csv as csv_format
import io
from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from study.report.tables.paper_table import Layout, Number

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
"""Of the CSV: `value` and `std` in percent, unrounded; `images` is the number of clean ones, whatever the number of
seeds; `rmsd` is the cell's own; `clean` the target's accuracy on clean images, percent, empty where it is not known."""


def markdown(layouts: Iterable[Layout]) -> str:
    """A pipe table for each; sections are told by the first column, best is bold, white-box has an asterisk,
    grey-box a ring."""
    parts = []
    for layout in layouts:
        lines = [f"**{_marked(layout.title)}**", ""]
        lines.append(_piped(["attack", "sources", "RMSD", *map(_marked, layout.targets)]))
        lines.append(_piped(["---", "---", *["---:"] * (1 + len(layout.targets))]))
        for shown, section in groupby(layout.lines, key=lambda line: line.variant):
            for index, line in enumerate(section):
                first = "" if index else _marked(shown)
                numbers = [_markdown_number(one) for one in line.numbers]
                lines.append(_piped([first, _marked(line.sources.replace("+", " + ")), line.moved, *numbers]))
        if layout.rights:
            lines.append(_piped(["clean images", "", "", *layout.rights]))
        lines += ["", *(f"{_marked(note)}  " for note in layout.notes), ""]
        parts.append("\n".join(lines))
    return "\n".join(parts)


def latex(layouts: Iterable[Layout]) -> str:
    """A `table` with booktabs' rules for each: \\usepackage{booktabs}. Sections are headed by their attack."""
    return "\n".join(_latex_table(layout) for layout in layouts)


def csv(layouts: Iterable[Layout]) -> str:
    """One line for every number, with a heading: columns as in COLUMNS."""
    file = io.StringIO()
    writer = csv_format.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for layout in layouts:
        rights = zip(layout.targets, layout.clean, strict=False)
        clean = {target: repr(100 * one.share) for target, one in rights if one is not None and one.images}
        for line in layout.lines:
            for target, one in zip(layout.targets, line.numbers, strict=True):
                if one is not None:
                    craft = (layout.experiment, layout.goal, line.attack, line.variant, line.sources, target)
                    shown = ("" if one.std is None else repr(one.std), one.images, one.seeds, repr(one.rmsd))
                    marks = (one.relation, str(one.best).lower(), clean.get(target, ""))
                    writer.writerow((*craft, layout.metric, layout.top, repr(one.value), *shown, *marks))
    return file.getvalue()


def escaped(text: str) -> str:
    """Text for LaTeX."""
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
    for shown, section in groupby(layout.lines, key=lambda line: line.variant):
        lines += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\textit{{{escaped(shown)}}}}} \\"]
        for line in section:
            numbers = [_latex_number(one) for one in line.numbers]
            lines.append(_ended([escaped(line.sources.replace("+", " + ")), line.moved, *numbers]))
    if layout.rights:
        lines += [r"\midrule", _ended(["Clean images", "", *map(escaped, layout.rights)])]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _latex_number(number: Number | None) -> str:
    if number is None:
        return "--"
    text = number.text(r"$\pm$")
    if not number.black:
        return rf"{text}$^{{{_RAISED[number.mark]}}}$"
    return rf"\textbf{{{text}}}" if number.best else text


def _markdown_number(number: Number | None) -> str:
    if number is None:
        return "–"
    if not number.black:
        return f"{number.text()}{_marked(number.mark)}"
    return f"**{number.text()}**" if number.best else number.text()


def _ended(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _piped(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _marked(text: str) -> str:
    return "".join(rf"\{mark}" if mark in r"\`*_[]<>|" else mark for mark in text)
