"""An experiment in the report: its transfer matrices, figures, ensembles, mistakes and classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from study.analysis.experiments import averaged
from study.analysis.robustness import destruction_rates
from study.papers.finding_cells import without_transform
from study.planning.relation import MARKS
from study.report import figures
from study.report.html.curves import curves, transferred
from study.report.html.data import Gathered, points
from study.report.html.mistakes import mistakes
from study.report.html.page import LEVELS, NOTHING, Cell, Room, Table, note, section
from study.report.html.summary import polars

_MEANING = {
    "untargeted": "% of adversarial images that the target model no longer gives their true label",
    "targeted": "% of adversarial images that the target model gives the target label",
}
_SERVICES = "A service succeeds where none of its labels for the clean image is left, or it names the target label."

_MOVED = "A point for each attack, point of it and source set: the mean over black-box targets."
_CURVE = "Black-box targets: a mean over several source sets, or one with its 95 % interval."
_CLEAN = "Clean images: % that the target model gives their true label, of all that the clean pass asked about."

_DESTROYED = (
    "Of the images that fool the plain model after the attack's last step, those that it gets right again once they "
    "are transformed: the lower, the harder to undo."
)

Found = Mapping[str, Any]


def experiment(gathered: Gathered, name: str, drawn: figures.Album, room: Room) -> str:
    """The section of one experiment."""
    one = gathered.spec.experiments[name]
    whole = averaged(gathered.of(name))
    parts = [_about(gathered, name)]
    if whole.is_empty():
        parts.append(note("No rows yet."))
    for goal in dict.fromkeys(one.goal):
        cells = whole.filter(pl.col("goal") == goal)
        if not cells.is_empty():
            parts += [_matrix(gathered, name, goal, cells, room), *_ensembles(gathered, name, goal, cells, room)]
            parts.append(_plots(gathered, name, goal, cells, drawn))
    parts += mistakes(gathered, name, room)
    return section(f"experiment-{name}", name, parts)


def _about(gathered: Gathered, name: str) -> str:
    one = gathered.spec.experiments[name]
    have, planned = gathered.missing[name]
    attacks, goals = dict.fromkeys(one.attacks), dict.fromkeys(one.goal)
    return note(f"{', '.join(attacks)}; {' and '.join(goals)}; {have:,} of {planned:,} rows.")


def key() -> str:
    """How the colours of the matrices read."""
    steps = "".join(f'<i class="h{level}"></i>' for level in range(0, LEVELS + 1, 5))
    return (
        f'<div class="key"><span>0 %</span><span class="bar">{steps}</span><span>100 %</span>'
        "<b>48*</b><span>white-box: the target is one of the sources.</span><b>48°</b><span>grey-box: it has the "
        "network of a source, behind a transform or with other weights. Hover or focus a cell for its 95 % Wilson "
        "interval, images and RMSD; arrow keys walk.</span></div>"
    )


def _matrix(gathered: Gathered, name: str, goal: str, cells: pl.DataFrame, room: Room) -> str:
    """Sources down, targets across: a line for each source set at each point of each attack."""
    spec = gathered.spec
    one = spec.experiments[name]
    targets = spec.targets(one)
    known = {
        (cell["sources"], cell["attack"], cell["steps"], cell["level"], cell["target"]): cell
        for cell in cells.iter_rows(named=True)
    }
    lines = []
    for shown, attack, steps, level in points(spec, one.attacks):
        for sources in spec.source_sets(one):
            joined = "+".join(sources)
            found = [known.get((joined, attack, steps, level, target)) for target in targets]
            there = [cell for cell in found if cell is not None]
            if there:
                images = max(cell["images"] for cell in there)
                moved = [cell["rmsd"] for cell in there]
                whose = joined.replace("+", " + ") or "elsewhere"
                first = [Cell(shown), Cell(whose), Cell(f"{images:,}", number=True), Cell(span(moved), number=True)]
                lines.append([*first, *(NOTHING if cell is None else rate(cell) for cell in found)])
    if any(target in gathered.finished.clean for target in targets):
        lines.append(_clean(gathered, targets))
    seeds = int(str(cells["seeds"].max()))
    notes = [_MEANING[goal] + (f"; mean of {seeds} seeds ± their standard deviation" if seeds > 1 else "") + "."]
    notes[0] += " RMSD: mean, in pixel values 0..255."
    if set(targets) & set(spec.services):
        notes.append(_SERVICES)
    if any(target in gathered.finished.clean for target in targets):
        notes.append(_CLEAN)
    call = f"analysis.transfer_matrix(rows, ours, {name!r}, goal={goal!r})"
    head = ["attack", "sources", "images", "RMSD", *targets]
    return Table(f"{name}, {goal}", head, lines, polars(gathered, call), grid=True, notes=notes).html(room)


def _clean(gathered: Gathered, targets: Sequence[str]) -> list[Cell]:
    """The last line of a matrix: how often each target is right about clean images."""
    rights = [gathered.finished.clean.get(target) for target in targets]
    asked = max(one.images for one in rights if one is not None)
    shown = [
        NOTHING
        if one is None or not one.images
        else Cell(
            f"{100 * one.share:.0f}", number=True, tip=f"right about {one.right:,} of {one.images:,} clean images"
        )
        for one in rights
    ]
    return [Cell("clean images"), Cell(""), Cell(f"{asked:,}", number=True), Cell("", number=True), *shown]


def rate(cell: Found) -> Cell:
    """A success rate with its interval: percent, with as many decimals as its images are worth."""
    images, value = cell["images"], 100 * cell["success"]
    decimals = 0 if images <= 100 else 1 if images <= 1000 else 2
    std = cell.get("std")
    shown = f"{value:.{decimals}f}" + ("" if std is None else f" ± {100 * std:.{max(1, decimals)}f}")
    seeds = f", {cell['seeds']} seeds" if cell.get("seeds", 1) > 1 else ""
    ends = f"95 %: {100 * cell['low']:.1f} to {100 * cell['high']:.1f}"
    tip = f"{value:.2f} % of {images:,} images{seeds}; {ends}; RMSD {cell['rmsd']:.2f}"
    kind = cell["relation"]
    return Cell(
        shown + MARKS.get(kind, ""), cell["success"], tip + ("" if kind == "black" else f"; {kind}-box"), mark=kind
    )


def span(values: Sequence[float]) -> str:
    """The RMSD of a line; from the least to the greatest where each target searched for its own."""
    low, high = min(values), max(values)
    return f"{low:.2f}" if high - low < 0.005 else f"{low:.2f} to {high:.2f}"


def _ensembles(gathered: Gathered, name: str, goal: str, cells: pl.DataFrame, room: Room) -> Iterator[str]:
    """Every ensemble against the model that it leaves out: the diagonals of Liu et al. 2017, tables 3 and 4."""
    spec = gathered.spec
    one = spec.experiments[name]
    sets = [set(sources) for sources in spec.source_sets(one)]
    among = set().union(*sets)
    held = {
        "+".join(sorted(sources)): next(iter(among - sources))
        for sources in sets
        if len(sources) > 1 and len(among - sources) == 1
    }
    known = {
        (cell["attack"], cell["steps"], cell["level"], cell["target"]): cell
        for cell in cells.iter_rows(named=True)
        if held.get(cell["sources"]) == cell["target"]
    }
    if not known:
        return
    out = [model for model in spec.models if model in held.values()]
    lines = []
    for shown, attack, steps, level in points(spec, one.attacks):
        found = [known.get((attack, steps, level, target)) for target in out]
        there = [cell for cell in found if cell is not None]
        if there:
            mean = sum(cell["success"] for cell in there) / len(there)
            moved = [cell["rmsd"] for cell in there]
            first = [Cell(shown), Cell(f"{min(moved):.2f} to {max(moved):.2f}", number=True)]
            average = Cell(f"{100 * mean:.1f}", mean)
            lines.append([*first, *(NOTHING if cell is None else rate(cell) for cell in found), average])
    notes = ["The model in the heading is the target; all the others of the ensemble are the sources."]
    head = ["attack", "RMSD", *(f"without {target}" for target in out), "mean"]
    call = f"analysis.leave_one_out(rows, ours, {name!r})"
    title = f"{name}, {goal}: ensembles against the model they leave out"
    yield Table(title, head, lines, polars(gathered, call), grid=True, notes=notes).html(room)


def _plots(gathered: Gathered, name: str, goal: str, cells: pl.DataFrame, drawn: figures.Album) -> str:
    """The figures of a goal, side by side."""
    spec, one = gathered.spec, gathered.spec.experiments[name]
    title = f"{name}, {goal}" if transferred(cells) else f"{name}, {goal}, white-box"
    names = {(attack, steps, level): shown for shown, attack, steps, level in points(spec, one.attacks)}
    made = [drawn.add(f"{name}-{goal}-rmsd", figures.success_by_rmsd(cells, names, title), _MOVED)]
    for along, lines in curves(cells, spec, one):
        made.append(drawn.add(f"{name}-{goal}-{along.replace('.', '-')}", figures.curve(lines, along, title), _CURVE))
    if goal == "untargeted":
        told = figures.destruction(_destroyed(gathered, name), {attack: attack for attack in one.attacks}, title)
        made.append(drawn.add(f"{name}-{goal}-destruction", told, _DESTROYED))
    searched = [attack for attack in one.attacks if spec.attacks[attack].budget.minimal is not None]
    if searched:
        chosen = gathered.rows_of(gathered.of(name, goal))
        made += figures.searches(chosen, spec, drawn, f"{name}-{goal}", title)
    inside = "".join(one for one in made if one)
    return f'<div class="plots">{inside}</div>' if inside else ""


def _destroyed(gathered: Gathered, name: str) -> pl.DataFrame:
    """By attack and target, destruction rates of transformed targets whose plain model the experiment has too."""
    spec, one = gathered.spec, gathered.spec.experiments[name]
    targets = spec.targets(one)
    plain = {target: of for target in targets if (of := without_transform(spec, target)) is not None and of in targets}
    if not plain:
        return pl.DataFrame(schema={"attack": pl.String, "target": pl.String, "destruction": pl.Float64})
    last = {attack: spec.attacks[attack].points[-1] for attack in one.attacks}
    ended = pl.any_horizontal(
        [
            (pl.col("attack") == attack)
            & (pl.col("steps") == steps)
            & pl.col("budget").eq_missing(pl.lit(level, pl.Float64))
            for attack, (steps, level) in last.items()
        ]
    )
    rows = gathered.rows_of(gathered.of(name, "untargeted")).filter(ended)
    found = destruction_rates(rows, plain, by=("attack", "target"))
    order = {target: place for place, target in enumerate(spec.models)}
    return found.sort(pl.col("target").replace_strict(order, return_dtype=pl.Int64))
