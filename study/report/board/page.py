"""Makes the HTML page of a board or of a protocol card: one file that works without a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

import polars as pl

from study import __version__
from study.analysis.visibility import Measure
from study.planning.relation import MARKS
from study.report import figures
from study.report.board.lines import BoardTable, Cell, Entry, Line
from study.report.board.protocol import differences, facts
from study.report.html.colours import LEVELS, ramp_css
from study.report.html.components import (
    MISSING,
    CellBudget,
    HtmlTable,
    TableCell,
    number_cell,
    percent_cell,
    text_cells,
)
from study.report.html.environment import environment
from study.report.wording import SUCCESS_RATE, fixed, rate_decimals
from study.results.schema import VISIBLE

MEAN = (
    "Mean: the mean of the black-box rates, with its 95 % interval in brackets. The interval is from a bootstrap over "
    "images, or Wilson's if all images have the same result"
)
CORRECT = "Correct: the mean of the black-box rates over the images that each target classifies correctly when clean"
COST = (
    "Gradients: the number of gradients for one image, over all source models, all transformed copies of the image, "
    "and all sampled points near the image"
)
LOOKS = (
    "RMSD (pixel values), SSIM (at most 1), CIEDE2000 and LPIPS (at least 0, if computed): means over the adversarial "
    "images"
)


def front_note(table: BoardTable) -> str:
    """Return the note that defines the column `front` of a table."""
    measure = "SSIM" if table.measure == "ssim" else "RMSD"
    return (
        f"Front: yes if no other line is at least as good in mean, gradients and {measure}, and better in at least one "
        "of the three"
    )


SEEN: Mapping[Measure, tuple[str, str]] = {
    "rmsd": ("RMSD", ".2f"),
    "ssim": ("SSIM", ".3f"),
    "ciede2000": ("CIEDE2000", ".2f"),
    "lpips": ("LPIPS", ".3f"),
}
"""The heading and the number format of each measure of visibility on a board."""


@dataclass(frozen=True)
class BoardPart:
    """One section of the page, with its tables and figures. `id` is its HTML id."""

    id: str
    title: str
    tables: Sequence[HtmlTable]
    drawings: Sequence[figures.Drawing] = field(default=())


def board_page(title: str, entries: Sequence[Entry], tables: Sequence[BoardTable]) -> str:
    """Return the HTML page of a board."""
    known = {entry.name: facts(entry) for entry in entries}
    album = figures.Album()
    parts = [
        BoardPart(
            f"board-{place}",
            f"{one.experiment}, {one.goal}",
            [board_html(one, several=len(entries) > 1)],
            _drawings(one, album),
        )
        for place, one in enumerate(tables)
    ]
    parts.append(BoardPart("protocol", "Protocol", [_protocol(known)]))
    told = differences(known)
    alert = ("These runs do not share a protocol, so not all of their numbers are comparable.", told) if told else None
    counts = {
        "runs": len(entries),
        "attacks": len({line.attack for one in tables for line in one.lines}),
        "targets": len({target for one in tables for target in one.targets}),
        "images": max((line.images for one in tables for line in one.lines), default=0),
    }
    return page(title, {name: f"{count:,}" for name, count in counts.items()}, alert, parts)


def page(
    title: str, counts: Mapping[str, str], alert: tuple[str, Sequence[str]] | None, parts: Sequence[BoardPart]
) -> str:
    """Return the HTML of a page. `counts` are shown at its top. `alert` is a warning: a heading and sentences.

    The templates escape every value except figures, our style and our script.
    """
    assets = files("study.report") / "assets"
    script = (assets / "report.js").read_text(encoding="utf-8")
    return (
        environment()
        .get_template("board.html")
        .render(
            title=title,
            style=(assets / "report.css").read_text(encoding="utf-8") + ramp_css(),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            budget=CellBudget(),
            key_levels=range(0, LEVELS + 1, 5),
            alert=alert,
            facts=counts,
            parts=parts,
            version=__version__,
        )
    )


def board_html(table: BoardTable, *, several: bool) -> HtmlTable:
    """Return the table of one experiment and goal. It has a column with the name of the run if `several` is true."""
    rows = []
    seen = {one: head for one, head in SEEN.items() if any(line.visible[one] is not None for line in table.lines)}
    for place, line in enumerate(table.lines, 1):
        rates = [_rate(line.rates.get(target), line.correct.get(target)) for target in table.targets]
        first = [line.run] if several else []
        rows.append(
            [
                TableCell(str(place), number=True),
                *text_cells(*first, line.attack, line.sources.replace("+", " + ")),
                _mean(line),
                percent_cell(line.correct_mean, "over clean-correct images", decimals=1),
                *rates,
                number_cell(line.gradients, ",.0f"),
                *(number_cell(line.visible[measure], form) for measure, (_, form) in seen.items()),
                TableCell("yes" if line.front else ""),
            ]
        )
    head = ["#", *(["run"] if several else []), "attack", "sources", "mean", "correct", *table.targets]
    head += ["gradients", *(name for name, _ in seen.values()), "front"]
    notes = [f"{one}." for one in (SUCCESS_RATE[table.goal], MEAN, CORRECT, COST, LOOKS, front_note(table))]
    return HtmlTable(f"{table.experiment}, {table.goal}", head, rows, grid=True, notes=notes)


def _mean(line: Line) -> TableCell:
    if line.mean is None:
        return MISSING
    decimals = max(1, rate_decimals(line.images))
    text, tip = fixed(100 * line.mean, decimals), f"{line.images:,} images"
    if line.low is not None and line.high is not None:
        text += f" [{fixed(100 * line.low, decimals)}, {fixed(100 * line.high, decimals)}]"
    return TableCell(text, line.mean, tip)


def _rate(cell: Cell | None, correct: Cell | None) -> TableCell:
    if cell is None:
        return MISSING
    relation = cell["relation"]
    tip = f"{100 * cell['success']:.2f} % of {cell['images']:,} images"
    tip += f", {cell['seeds']} seeds" if cell["seeds"] > 1 else ""
    tip += f"; 95 %: {fixed(100 * cell['low'], 1)} to {fixed(100 * cell['high'], 1)}"
    if correct is not None:
        tip += f"; {fixed(100 * correct['success'], 1)} % of {correct['images']:,} clean-correct images"
    tip += "" if relation == "black" else f"; {relation}-box"
    text = f"{fixed(100 * cell['success'], rate_decimals(cell['images']))}{MARKS.get(relation, '')}"
    return TableCell(text, cell["success"], tip, relation=relation)


def _drawings(table: BoardTable, album: figures.Album) -> list[figures.Drawing]:
    """Return figures of the mean success over the cost and over each computed measure of visibility.

    A figure has one mark for each line of the table. Its colour stands for the run, or for the attack if there is only
    one run.
    """
    runs = list(dict.fromkeys(line.run for line in table.lines))
    called = [line.run if len(runs) > 1 else line.attack for line in table.lines]
    found = pl.DataFrame(
        {
            "attack": called,
            "success": [line.mean for line in table.lines],
            "gradients": [line.gradients for line in table.lines],
            **{measure: [line.visible[measure] for line in table.lines] for measure in VISIBLE},
        },
        schema_overrides=dict.fromkeys(("success", "gradients", *VISIBLE), pl.Float64),
    )
    title, marks = f"{table.experiment}, {table.goal}", list(dict.fromkeys(called))
    note = "One mark for each line of the table."
    drawn = [album.add(f"{title}-gradients", figures.success_by_measure(found, "gradients", marks, title), note)]
    for measure in VISIBLE:
        figure = figures.success_by_measure(found, measure, marks, title)
        drawn.append(album.add(f"{title}-{measure}", figure, note))
    return [one for one in drawn if one is not None]


def _protocol(known: Mapping[str, Mapping[str, str]]) -> HtmlTable:
    names = next(iter(known.values()))
    rows = [text_cells(name, *(one[name] for one in known.values())) for name in names]
    notes = [
        "The digest of a model covers all its tensors, its preprocessing and the order of its classes.",
        "The digest of the clean images covers all of them.",
    ]
    return HtmlTable("What decides the numbers of each run", ["", *known], rows, notes=notes)
