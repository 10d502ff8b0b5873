"""Makes the section of one experiment: transfer matrices, further tables of its attacks, and figures."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from study.analysis.costs import at_cost
from study.analysis.matrix import left_out
from study.analysis.robustness import destruction_rates
from study.papers.finding_cells import without_transform
from study.planning.relation import MARKS, RELATIONS
from study.report import figures
from study.report.curves import curves, transferred
from study.report.html.components import MISSING, HtmlTable, TableCell, number_cell, percent_cell, text_cells
from study.report.html.mistakes import mistakes
from study.report.html.report_data import ReportData
from study.report.matrix_rows import attack_points, matrix_rows
from study.report.wording import (
    AT_COST,
    CLEAN_ACCURACY,
    RMSD,
    SUCCESS_RATE,
    VISIBILITY,
    VISIBILITY_HEAD,
    fixed,
    point_name,
    rate_decimals,
    rmsd_range,
    service_notes,
    visibility_columns,
    visibility_numbers,
)
from study.results.schema import VISIBLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SCATTER_NOTE = (
    "One mark for each attack (each checkpoint and budget separately) and each source set: the mean over black-box "
    "targets."
)
_MEASURE_NOTE = (
    "One mark for each attack (each checkpoint and budget separately): the mean over black-box targets, source sets "
    "and images."
)
_CURVE_NOTE = (
    "A line shows the mean over several source sets, or a single source set with its 95 % interval. If there are "
    "black-box targets, only these count."
)
_FEWEST_MARKS = 6
_SEARCH_NOTE = "The share of images whose smallest successful RMSD is at most the RMSD on the x axis."
_DESTRUCTION_NOTE = (
    "Destruction rate: the share of successful images that a transform makes harmless. An image is successful if, "
    "without the transform, the model classifies the clean image correctly and the image after the last step wrongly. "
    "It is harmless if the same model with the transform classifies it correctly. A low rate means that the attack "
    "survives the transform."
)


@dataclass(frozen=True)
class GoalResults:
    """The tables and figures of one goal of an experiment. A table is None if there is nothing to show."""

    matrix: HtmlTable
    ensembles: HtmlTable | None
    costs: HtmlTable | None
    visibility: HtmlTable | None
    drawings: Sequence[figures.Drawing]


@dataclass(frozen=True)
class ExperimentResults:
    """The section of one experiment.

    `goals` has the results of each goal with rows. `mistakes` has tables of wrong answers, each with its title.
    """

    name: str
    summary: str
    goals: Sequence[GoalResults]
    mistakes: Sequence[tuple[str, HtmlTable]]


def experiment_results(data: ReportData, name: str, album: figures.Album) -> ExperimentResults:
    experiment = data.spec.experiments[name]
    have, planned = data.progress[name]
    attacks, goals = dict.fromkeys(experiment.attacks), dict.fromkeys(experiment.goal)
    summary = f"{', '.join(attacks)}; {' and '.join(goals)}; {have:,} of {planned:,} rows."
    all_cells, all_seen = data.averages_of(name), data.seen[name]
    results = []
    for goal in goals:
        cells = all_cells.filter(goal=goal)
        if not cells.is_empty():
            tables = (
                _matrix(data, name, goal, cells),
                _ensembles(data, name, goal, cells),
                _costs(data, name, goal, cells),
            )
            seen = all_seen.filter(goal=goal)
            drawings = [*_drawings(data, name, goal, cells, album), *_measures(data, name, goal, seen, album)]
            results.append(GoalResults(*tables, _visibility(data, name, goal, seen), drawings))
    return ExperimentResults(name, summary, results, list(mistakes(data, name)))


def _matrix(data: ReportData, name: str, goal: str, cells: pl.DataFrame) -> HtmlTable:
    """Return the transfer matrix. It has a column for each target.

    It has a row for each source set and each point (number of steps and budget) of each attack.
    """
    spec, experiment = data.spec, data.spec.experiments[name]
    targets = spec.targets(experiment)
    rows, foot = list[list[TableCell]](), list[list[TableCell]]()
    for row in matrix_rows(spec, name, goal, cells):
        images = max(cell["images"] for cell in row.cells if cell)
        first = text_cells(row.variant, row.sources.replace("+", " + "))
        rows.append([*first, number_cell(images), _rmsd_cell(row.cells), *map(rate_cell, row.cells)])
    notes = [f"{SUCCESS_RATE[goal]}.", f"{RMSD}."]
    if (seeds := int(str(cells["seeds"].max()))) > 1:
        notes[0] = f"{SUCCESS_RATE[goal]}; mean of {seeds} seeds ± standard deviation."
    notes += [f"{note}." for note in service_notes(spec, targets)]
    if any(target in data.finished.clean for target in targets):
        foot.append(_clean_row(data, targets))
        notes.append(f"{CLEAN_ACCURACY}.")
    code = data.code(f"analysis.transfer_matrix(rows, spec, {name!r}, goal={goal!r})")
    head = ["attack", "sources", "images", "RMSD", *targets]
    return HtmlTable(f"{name}, {goal}", head, rows, code, grid=True, notes=notes, foot=foot)


def _clean_row(data: ReportData, targets: Sequence[str]) -> list[TableCell]:
    """Return the last row of a transfer matrix: the clean accuracy of each target."""
    known = [data.finished.clean.get(target) for target in targets]
    images = max(one.images for one in known if one is not None)
    rates = [
        TableCell(
            fixed(100 * one.share, 0), number=True, tip=f"{one.right:,} of {one.images:,} clean images are correct"
        )
        if one is not None and one.images
        else MISSING
        for one in known
    ]
    return [*text_cells("clean images", ""), number_cell(images), TableCell("", number=True), *rates]


def rate_cell(cell: Mapping[str, Any] | None) -> TableCell:
    """Return a cell with a success rate in percent. Its tip has the interval, the number of images and the RMSD."""
    if cell is None:
        return MISSING
    images, value, std, relation = cell["images"], 100 * cell["success"], cell["std"], cell["relation"]
    decimals = rate_decimals(images)
    text = fixed(value, decimals) + ("" if std is None else f" ± {fixed(100 * std, max(1, decimals))}")
    seeds = f", {cell['seeds']} seeds" if cell["seeds"] > 1 else ""
    interval = f"95 %: {100 * cell['low']:.1f} to {100 * cell['high']:.1f}"
    tip = f"{value:.2f} % of {images:,} images{seeds}; {interval}; RMSD {cell['rmsd']:.2f}"
    tip += "" if relation == "black" else f"; {relation}-box"
    return TableCell(text + MARKS.get(relation, ""), cell["success"], tip, relation=relation)


def _rmsd_cell(cells: Sequence[Mapping[str, Any] | None]) -> TableCell:
    return TableCell(rmsd_range([cell["rmsd"] for cell in cells if cell is not None]), number=True)


def _ensembles(data: ReportData, name: str, goal: str, cells: pl.DataFrame) -> HtmlTable | None:
    """Return the table of every ensemble against the only model that it leaves out.

    Its numbers are the diagonals of tables 3 and 4 of Liu et al. 2017. Return None if there are no such ensembles.
    """
    targets = left_out(data.spec, name)
    if not targets:
        return None
    diagonal = cells.filter(pl.col("target") == pl.col("sources").replace_strict(targets, default=None))
    known = {(one["attack"], one["steps"], one["level"], one["target"]): one for one in diagonal.iter_rows(named=True)}
    held_out = [model for model in data.spec.models if model in targets.values()]
    rows: list[list[TableCell]] = []
    relations: set[str] = set()
    for shown, attack, steps, level in attack_points(data.spec, data.spec.experiments[name].attacks):
        found = [known.get((attack, steps, level, target)) for target in held_out]
        rates = [cell["success"] for cell in found if cell is not None]
        if rates:
            relations |= {str(cell["relation"]) for cell in found if cell is not None}
            mean = percent_cell(sum(rates) / len(rates), decimals=1)
            rows.append([TableCell(shown), _rmsd_cell(found), *map(rate_cell, found), mean])
    if not rows:
        return None
    notes = ["Each column is one target. The sources are all other models of the ensembles."]
    kinds = " and ".join(f"{kind}-box" for kind in RELATIONS if kind in relations)
    head = ["attack", "RMSD", *(f"without {target}" for target in held_out), f"{kinds} mean"]
    title = f"{name}, {goal}: ensembles against the model they leave out"
    code = data.code(f"analysis.leave_one_out(rows, spec, {name!r})")
    return HtmlTable(title, head, rows, code, grid=True, notes=notes)


def _costs(data: ReportData, name: str, goal: str, cells: pl.DataFrame) -> HtmlTable | None:
    """Return the table of attacks at equal cost (number of gradients).

    Return None if the experiment has no `at-cost`, or if no black-box cell is within these costs.
    """
    experiment = data.spec.experiments[name]
    if experiment.at_cost is None:
        return None
    found = at_cost(cells, data.spec, name)
    known = {(one["attack"], one["cost"]): one for one in found.iter_rows(named=True)}
    rows = []
    for attack in dict.fromkeys(experiment.attacks):
        here = [known.get((attack, cost)) for cost in experiment.at_cost.gradients]
        if any(here):
            rows.append([TableCell(attack), *(_at_cost_cell(one) for one in here)])
    if not rows:
        return None
    head = ["attack", *(f"{cost:,} gradients" for cost in experiment.at_cost.gradients)]
    code = data.code(
        "from study.analysis.experiments import averaged, cells, of_experiment\n"
        f"analysis.at_cost(averaged(of_experiment(cells(rows, spec), spec, {name!r})), spec, {name!r})"
    )
    return HtmlTable(f"{name}, {goal}: at equal cost", head, rows, code, notes=[f"{AT_COST}."])


def _at_cost_cell(one: Mapping[str, Any] | None) -> TableCell:
    if one is None:
        return MISSING
    tip = f"{one['steps']:,} steps, {one['gradients']:g} gradients, mean of {one['cells']} black-box cells"
    return percent_cell(one["success"], tip, decimals=1)


def _visibility(data: ReportData, name: str, goal: str, found: pl.DataFrame) -> HtmlTable | None:
    """Return the table of success, cost and visibility of each attack at all its points (steps and budgets).

    Return None if visibility was not computed. Return None also if every attack has only one point, because the ranking
    already shows the same numbers.
    """
    if found["ssim"].null_count() == found.height or found["attack"].n_unique() == found.height:
        return None
    rows, columns = [], visibility_columns(found)
    for one in found.iter_rows(named=True):
        called = point_name(one["attack"], data.spec.attacks[one["attack"]], one["steps"], one["level"])
        numbers = visibility_numbers(one)
        first = MISSING if one["success"] is None else TableCell(numbers[0], one["success"])
        rows.append([TableCell(called), first, *(TableCell(numbers[at], number=True) for at in columns[1:])])
    code = data.code(
        "from study.analysis.experiments import averaged, cells, of_experiment\n"
        f"analysis.visibility(rows, averaged(of_experiment(cells(rows, spec), spec, {name!r})), spec, {name!r})"
    )
    title = f"{name}, {goal}: success, cost and visibility"
    return HtmlTable(title, ["attack", *(VISIBILITY_HEAD[at] for at in columns)], rows, code, notes=[f"{VISIBILITY}."])


def _drawings(
    data: ReportData, name: str, goal: str, cells: pl.DataFrame, album: figures.Album
) -> list[figures.Drawing]:
    spec, experiment = data.spec, data.spec.experiments[name]
    kinds = "black-box" if transferred(cells) else " and ".join(f"{one}-box" for one in sorted(set(cells["relation"])))
    title = f"{name}, {goal}" if transferred(cells) else f"{name}, {goal}, {kinds}"
    by_rmsd = functools.partial(figures.success_by_rmsd, cells, experiment.attacks, title)
    drawn = [_one(album, f"{name}-{goal}-rmsd", by_rmsd, _SCATTER_NOTE)]
    for along, lines in curves(cells, spec, experiment):
        panels = figures.curve_panels(lines, along, title, kinds)
        whole = functools.partial(figures.curve, lines, along, title, kinds)
        drawn.append(album.chart(f"{name}-{goal}-{along.replace('.', '-')}", whole, panels, _CURVE_NOTE))
    if goal == "untargeted":
        restored = functools.partial(figures.destruction, _destruction(data, name), experiment.attacks, title)
        drawn.append(_one(album, f"{name}-{goal}-destruction", restored, _DESTRUCTION_NOTE))
    if any(spec.attacks[attack].budget.minimal is not None for attack in experiment.attacks):
        drawn += [
            album.chart(f"{name}-{goal}-{one.attack}-minimal", one.whole, one.panels(), _SEARCH_NOTE)
            for one in figures.searches(data.rows_of(data.cells_of(name, goal)), spec, title)
        ]
    return [drawing for drawing in drawn if drawing is not None]


def _measures(
    data: ReportData, name: str, goal: str, seen: pl.DataFrame, album: figures.Album
) -> list[figures.Drawing]:
    """Return figures of success over the cost, and over each measure of visibility that was computed.

    `seen`: the result of `analysis.visibility`. If there are fewer than six marks to draw, return no figures, because a
    table shows these numbers as well.
    """
    if seen.height < _FEWEST_MARKS:
        return []
    attacks = data.spec.experiments[name].attacks
    drawn = []
    for one in ("gradients", *VISIBLE):
        draw = functools.partial(figures.success_by_measure, seen, one, attacks, f"{name}, {goal}")
        called = "cost" if one == "gradients" else one
        drawn.append(_one(album, f"{name}-{goal}-{called}", draw, _MEASURE_NOTE))
    return [drawing for drawing in drawn if drawing is not None]


def _one(album: figures.Album, name: str, draw: Callable[..., Figure | None], caption: str) -> figures.Drawing | None:
    """Return the drawing of a figure with one panel, which `draw` draws; None if it draws no figure."""
    panel = draw(page=True)
    return album.chart(name, draw, [] if panel is None else [panel], caption)


def _destruction(data: ReportData, name: str) -> pl.DataFrame:
    """Return the destruction rates after the last step of each attack, by attack and target with a transform.

    A target counts only if the same model without the transform is also a target of the experiment.
    """
    spec, experiment = data.spec, data.spec.experiments[name]
    targets = spec.targets(experiment)
    plain = {target: of for target in targets if (of := without_transform(spec, target)) is not None and of in targets}
    if not plain:
        return pl.DataFrame(schema={"attack": pl.String, "target": pl.String, "destruction": pl.Float64})
    last = {attack: spec.attacks[attack].scored_points[-1] for attack in experiment.attacks}
    ended = pl.any_horizontal(
        (pl.col("attack") == attack)
        & (pl.col("steps") == steps)
        & pl.col("budget").eq_missing(pl.lit(level, pl.Float64))
        for attack, (steps, level) in last.items()
    )
    rows = data.rows_of(data.cells_of(name, "untargeted")).filter(ended)
    order = {target: place for place, target in enumerate(spec.models)}
    found = destruction_rates(rows, plain, by=("attack", "target"))
    return found.sort(pl.col("target").replace_strict(order, return_dtype=pl.Int64))
