"""Writes a board as CSV, with a line for each rate, and as LaTeX with the package booktabs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from study.analysis.visibility import MEASURES
from study.planning.relation import MARKS
from study.report.board.lines import BoardTable, Cell, Line
from study.report.board.page import COST, LOOKS, MEAN
from study.report.tables.table_formats import escaped
from study.report.wording import SUCCESS_RATE, fixed, rate_decimals

COLUMNS = (
    *("experiment", "goal", "place", "run", "attack", "sources", "target", "relation"),
    *("success", "low", "high", "images", "seeds", "correct_success", "correct_images"),
    *("mean", "mean_low", "mean_high", "correct_mean"),
    *("gradients", *MEASURES, "front"),
)
"""The columns of the CSV. Rates and intervals are 0..1 and not rounded. An empty field means an unknown value.

Columns that begin with `correct_` count only images that the target classifies correctly when clean. The columns after
`correct_images` describe an attack on one source set, so their values are the same for each of its targets."""

_RAISED = {"*": "*", "°": r"\circ"}


def board_csv(tables: Sequence[BoardTable]) -> str:
    """Return the tables as CSV: a first line with the names of COLUMNS, then a line for each rate."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for table in tables:
        for place, line in enumerate(table.lines, 1):
            for target in table.targets:
                cell, right = line.rates.get(target), line.correct.get(target)
                if cell is not None:
                    own = (table.experiment, table.goal, place, line.run, line.attack, line.sources, target)
                    rate = [cell[name] for name in ("relation", "success", "low", "high", "images", "seeds")]
                    correct = (None, None) if right is None else (right["success"], right["images"])
                    whole = (line.mean, line.low, line.high, line.correct_mean, line.gradients)
                    seen = [line.visible[name] for name in MEASURES]
                    front = "" if line.front is None else str(line.front).lower()
                    writer.writerow([_field(one) for one in (*own, *rate, *correct, *whole, *seen, front)])
    return file.getvalue()


def _field(value: object) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def board_latex(tables: Sequence[BoardTable]) -> str:
    r"""Return a LaTeX `table` environment for each experiment and goal. The document needs \usepackage{booktabs}."""
    return "\n".join(map(_latex_table, tables))


def _latex_table(table: BoardTable) -> str:
    several = len({line.run for line in table.lines}) > 1
    head = [*(["Run"] if several else []), "Attack", "Sources", *table.targets, "Mean", "Gradients", "RMSD", "SSIM"]
    kinds = "l" * (3 if several else 2) + "r" * (len(table.targets) + 4)
    best = {
        target: max((_value(line.rates.get(target)) for line in table.lines), default=0) for target in table.targets
    }
    notes = ". ".join([f"{table.experiment}, {table.goal}", SUCCESS_RATE[table.goal], MEAN, COST, LOOKS])
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(notes)}.}}",
        rf"\label{{tab:board-{table.experiment}-{table.goal}}}",
        rf"\begin{{tabular}}{{{kinds}}}",
        r"\toprule",
        _row([escaped(one) for one in head]),
        r"\midrule",
    ]
    for line in table.lines:
        named = [*([line.run] if several else []), line.attack, line.sources.replace("+", " + ")]
        rates = [_latex_rate(line.rates.get(target), best[target]) for target in table.targets]
        rmsd, ssim = line.visible["rmsd"], line.visible["ssim"]
        numbers = [
            _latex_mean(line),
            "--" if line.gradients is None else f"{line.gradients:.0f}",
            "--" if rmsd is None else f"{rmsd:.2f}",
            "--" if ssim is None else f"{ssim:.3f}",
        ]
        lines.append(_row([*map(escaped, named), *rates, *numbers]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _value(cell: Cell | None) -> float:
    return -1.0 if cell is None or cell["relation"] != "black" else float(cell["success"])


def _latex_rate(cell: Cell | None, best: float) -> str:
    if cell is None:
        return "--"
    text = fixed(100 * cell["success"], rate_decimals(cell["images"]))
    mark = MARKS.get(cell["relation"], "")
    if mark:
        return rf"{text}$^{{{_RAISED[mark]}}}$"
    return rf"\textbf{{{text}}}" if cell["success"] == best else text


def _latex_mean(line: Line) -> str:
    if line.mean is None:
        return "--"
    ends = (
        "" if line.low is None or line.high is None else f" [{fixed(100 * line.low, 1)}, {fixed(100 * line.high, 1)}]"
    )
    return f"{fixed(100 * line.mean, 1)}{ends}"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
