"""Transfer matrices for the terminal: one per experiment and goal, sources by targets, a section per attack."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from study.analysis.matrix import POINT, with_level
from study.analysis.transfer import success_rates
from study.attacks import Attack
from study.spec import Spec
from study.terminal.prose import say

_MEANING = {
    "untargeted": "% of adversarial images that the target model no longer gives their true label",
    "targeted": "% of adversarial images that the target model gives the target label",
}

_OF_SERVICES = (
    "of a service: untargeted, none of its labels for the clean image is left; targeted, it names the target label"
)

_Cells = Mapping[tuple[object, ...], Mapping[str, object]]


def print_matrices(spec: Spec, rows: pl.LazyFrame, console: Console) -> bool:
    """Print the matrix of every experiment that has rows, in the spec's order; False where there are none."""
    goals = []
    for table, goal in matrices(spec, rows, console):
        console.print(table)
        goals.append(goal)
    notes = [f"{goal}: {_MEANING[goal]}" for goal in dict.fromkeys(goals)]
    if spec.services:
        notes.append(_OF_SERVICES)
    if goals:
        notes.append("* the target is one of the source models (white-box); RMSD: mean, of pixel values 0..255")
        for note in (*notes, ""):
            say(console, note)
    return bool(goals)


def matrices(spec: Spec, rows: pl.LazyFrame, console: Console) -> Iterator[tuple[Table, str]]:
    """Each experiment's table with its goal; several, where its targets are too many for the width of `console`."""
    rates = success_rates(with_level(rows, spec), by=POINT).to_dicts()
    cells: _Cells = {tuple(one[key] for key in POINT): one for one in rates}
    for name, experiment in spec.experiments.items():
        for goal in experiment.goal:
            left = spec.targets(experiment)
            while left:
                make = functools.partial(_matrix, spec, name, goal, cells)
                table, shown = _fitting(make, left, console)
                left = left[shown:]
                if table.row_count:
                    yield table, goal


def _fitting(make: Callable[[tuple[str, ...]], Table], targets: tuple[str, ...], console: Console) -> tuple[Table, int]:
    """The table of as many of `targets`, from the first on, as the console is wide enough for; and how many."""
    wide = console.options.update(max_width=100_000)
    for count in range(len(targets), 0, -1):
        table = make(targets[:count])
        if count == 1 or console.measure(table, options=wide).maximum <= console.width:
            break
    return table, count


def _matrix(spec: Spec, name: str, goal: str, cells: _Cells, targets: tuple[str, ...]) -> Table:
    experiment = spec.experiments[name]
    table = Table(title=f"{name}, {goal}", box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    table.add_column("attack")
    table.add_column("source models")
    for heading in ("images", "RMSD", *targets):
        table.add_column(heading, justify="right", no_wrap=True)
    for attack in experiment.attacks:
        recipe = spec.attacks[attack]
        for steps, level in recipe.points:
            shown = _variant(attack, recipe, steps, level)
            for sources in spec.source_sets(experiment):
                found = [cells.get(("+".join(sources), attack, goal, steps, level, target)) for target in targets]
                first = next((cell for cell in found if cell is not None), None)
                if first is not None:
                    numbers = (f"{first['images']}", _rmsd(found, searched=recipe.budget.minimal is not None))
                    table.add_row(shown, " + ".join(sources) or "elsewhere", *numbers, *(_cell(cell) for cell in found))
                    shown = ""
        table.add_section()
    return table


def _variant(attack: str, recipe: Attack, steps: int, level: float | None) -> str:
    """The attack, and which of its variants where it has several."""
    marks = []
    if recipe.checkpoints:
        marks.append(f"{steps} step{'s' if steps > 1 else ''}")
    if len(recipe.budget.levels) > 1:
        marks.append(f"{recipe.budget.kind} {level:g}")
    return ", ".join([attack, *marks])


def _rmsd(cells: Sequence[Mapping[str, object] | None], *, searched: bool) -> str:
    """The mean RMSD; where each target searched for its own, from the least to the greatest of them."""
    values = [float(str(cell["rmsd"])) for cell in cells if cell is not None]
    if searched and len(values) > 1:
        return f"{min(values):.1f} to {max(values):.1f}"
    return f"{values[0]:.2f}"


def _cell(cell: Mapping[str, object] | None) -> Text:
    if cell is None:
        return Text("– ", style="dim")
    white = bool(cell["white_box"])
    return Text(f"{100 * float(str(cell['success'])):.0f}{'*' if white else ' '}", style="dim" if white else "")
