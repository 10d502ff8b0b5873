"""Makes tables about the wrong answers of targets.

They show how often two targets make the same mistake, the most common wrong labels, and the success rate by class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from study.analysis.classes import per_class, wrong_labels
from study.analysis.mistakes import agreements
from study.report.html.components import HtmlTable, TableCell, number_cell, percent_cell, text_cells
from study.report.html.report_data import ReportData
from study.reproducibility.hashing import digest

_MOST_ROWS = 1_000_000
"""The largest number of rows that are used to compare targets.

If there are more rows, only some attack runs are used, with all their rows. A hash of their ids chooses them."""
_MOST_LABELS = 3
_MOST_CLASSES = 200
_MOST_TARGETS = 24


def mistakes(data: ReportData, name: str) -> Iterator[tuple[str, HtmlTable]]:
    """Yield the tables about wrong answers in an experiment, each with its title, for each goal."""
    experiment = data.spec.experiments[name]
    for goal in dict.fromkeys(experiment.goal):
        cells = data.cells_of(name, goal)
        shown = set(cells["target"])
        targets = [target for target in data.spec.targets(experiment) if target in shown]
        local = [target for target in targets if target not in data.spec.services]
        rows = data.rows_of(cells)
        title = f"{name}, {goal}"
        tables = {
            "do targets make the same mistakes?": _agreement(data, cells, local),
            "most common wrong labels": _wrong_labels(data, rows, title) if local else None,
            "success by class": _classes(data, rows, targets) if targets else None,
        }
        for question, table in tables.items():
            if table is not None:
                yield f"{title}: {question}", table


def _some_crafts(cells: pl.DataFrame) -> tuple[list[str], int]:
    """Return the ids of some attack runs with at most `_MOST_ROWS` rows in total, and the number of all attack runs.

    At least one attack run is returned, even if it has more rows.
    """
    sizes = dict(cells.group_by("craft").agg(pl.col("images").sum()).iter_rows())
    chosen: list[str] = []
    rows = 0
    for craft in sorted(sizes, key=digest):
        rows += sizes[craft]
        if chosen and rows > _MOST_ROWS:
            break
        chosen.append(craft)
    return chosen, len(sizes)


def _agreement(data: ReportData, cells: pl.DataFrame, targets: Sequence[str]) -> HtmlTable | None:
    """Return the table of how often two targets make the same mistake, as in table 9 of Liu et al. 2017.

    Each number is a share: of the images that both targets misclassify, the part to which both give the same wrong
    label. Return None if there are fewer than 2 or more than 24 targets, or no rows.
    """
    if not 1 < len(targets) <= _MOST_TARGETS:
        return None
    crafts, total = _some_crafts(cells)
    known = {}
    for pair in agreements(data.rows_of(cells.filter(pl.col("target").is_in(list(targets))), crafts), by=()).to_dicts():
        known[pair["first"], pair["second"]] = known[pair["second"], pair["first"]] = pair
    if not known:
        return None

    def cell(pair: dict[str, float] | None) -> TableCell:
        if pair is None or pair["same_mistake"] is None:
            return percent_cell(None)
        tip = (
            f"{pair['same_wrong']:,} of {pair['both_wrong']:,} images that both misclassify; same label, correct or "
            f"wrong: {100 * pair['agreement']:.1f} %"
        )
        return percent_cell(pair["same_mistake"], tip)

    rows = [[TableCell(one), *(cell(known.get((one, other))) for other in targets)] for one in targets]
    notes = ["Of the adversarial images that both targets misclassify: % to which both give the same wrong label."]
    if len(crafts) < total:
        notes.append(f"From {len(crafts)} of {total} attack runs, to save time. All: analysis.agreements(rows)")
    return HtmlTable("Same mistake", ["target", *targets], rows, grid=True, notes=notes)


def _wrong_labels(data: ReportData, rows: pl.LazyFrame, title: str) -> HtmlTable | None:
    table = [
        [
            TableCell(one["target"]),
            number_cell(one["rank"]),
            TableCell(one["name"]),
            number_cell(one["answers"]),
            number_cell(100 * one["share"], ".1f"),
        ]
        for one in wrong_labels(rows, data.spec.labels, most=_MOST_LABELS).iter_rows(named=True)
    ]
    head = ["target", "rank", "label", "answers", "% of its wrong answers"]
    code = data.code("analysis.wrong_labels(rows, spec.labels, most=len(spec.labels))")
    return HtmlTable(f"Wrong labels, {title}", head, table, code) if table else None


def _classes(data: ReportData, rows: pl.LazyFrame, targets: Sequence[str]) -> HtmlTable | None:
    """Return the table of success rates by true label, against each black-box target; None without black-box rows."""
    found = per_class(rows.filter(relation="black"), data.spec.labels, by=("target",))
    if found.is_empty():
        return None
    classes = (
        found.group_by("label", "name")
        .agg(pl.col("answers", "hits").sum(), pl.col("images").max())
        .with_columns((pl.col("hits") / pl.col("answers")).alias("success"))
        .sort("success", "label", descending=[True, False])
    )
    known = {(one["label"], one["target"]): one for one in found.iter_rows(named=True)}

    def cell(label: int, target: str) -> TableCell:
        one = known.get((label, target))
        if one is None or one["success"] is None:
            return percent_cell(None)
        interval = f"{100 * one['low']:.1f} to {100 * one['high']:.1f}"
        tip = f"{one['answers']:,} answers about {one['images']:,} images; 95 %: {interval}"
        return percent_cell(one["success"], tip)

    shown = targets[:_MOST_TARGETS]
    table = [
        [
            *text_cells(one["name"]),
            number_cell(one["images"]),
            number_cell(one["answers"]),
            percent_cell(one["success"], decimals=1),
            *(cell(one["label"], target) for target in shown),
        ]
        for one in classes.head(_MOST_CLASSES).iter_rows(named=True)
    ]
    code = data.code("analysis.per_class(rows.filter(relation='black'), spec.labels, by=('target',))")
    notes = [
        "Success rate (%) over all black-box answers: all attacks, steps, budgets, sources and seeds of the experiment "
        "together."
    ]
    if classes.height > _MOST_CLASSES:
        notes += [f"The {_MOST_CLASSES} of {classes.height:,} classes with the highest rates. For all of them:", code]
    head = ["class", "images", "answers", "all", *shown]
    return HtmlTable("Success by true label", head, table, code, grid=True, notes=notes)
