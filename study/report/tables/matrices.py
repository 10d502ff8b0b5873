"""Transfer matrices for the terminal: one per experiment and goal, sources by targets, a section per attack."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from study.analysis.experiments import POINT, averaged, cells, of_experiment
from study.attacks import Attack
from study.images.clean_accuracy import Right
from study.planning.relation import MARKS, marked
from study.report import plausibility
from study.results.run_reader import RunData
from study.terminal.prose import say

_MEANING = {
    "untargeted": "% of adversarial images that the target model no longer gives their true label",
    "targeted": "% of adversarial images that the target model gives the target label",
}

_OF_SERVICES = (
    "of a service: untargeted, none of its labels for the clean image is left; targeted, it names the target label"
)

_CLEAN = "clean images: % that the target model gives their true label, of all that the clean pass asked about"

_Cells = Mapping[tuple[object, ...], Mapping[str, object]]


def print_matrices(finished: RunData, console: Console) -> bool:
    """Print the matrix of every experiment that has rows, in the spec's order, and what makes its numbers doubtful;
    False where there are no rows."""
    goals = []
    spec = finished.spec
    found = cells(finished.rows, spec)
    for table, goal in matrices(finished, found, console):
        console.print(table)
        goals.append(goal)
    notes = [f"{goal}: {_MEANING[goal]}" for goal in dict.fromkeys(goals)]
    if spec.services:
        notes.append(_OF_SERVICES)
    if goals:
        notes += [_CLEAN] if finished.clean else []
        notes += [*marked(found["relation"]), "RMSD: mean, of pixel values 0..255"]
        doubtful = [
            *plausibility.of_models(spec, finished.clean, finished.models),
            *plausibility.of_attacks(spec, found),
        ]
        for note in (*notes, *(f"warning: {one}" for one in doubtful), ""):
            say(console, note)
    return bool(goals)


def matrices(finished: RunData, found: pl.DataFrame, console: Console) -> Iterator[tuple[Table, str]]:
    """Each experiment's table with its goal; several, where its targets are too many for the width of `console`.

    `found` are the cells of the run, seed by seed.
    """
    spec = finished.spec
    for name, experiment in spec.experiments.items():
        mine = averaged(of_experiment(found, spec, name)).to_dicts()
        known: _Cells = {tuple(one[key] for key in POINT): one for one in mine}
        for goal in experiment.goal:
            left = spec.targets(experiment)
            while left:
                make = functools.partial(_matrix, finished, name, goal, known)
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


def _matrix(finished: RunData, name: str, goal: str, known: _Cells, targets: tuple[str, ...]) -> Table:
    spec = finished.spec
    experiment = spec.experiments[name]
    several = max((int(str(one["seeds"])) for one in known.values()), default=1) > 1
    table = Table(title=f"{name}, {goal}", box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    table.add_column("attack")
    table.add_column("source models")
    for heading in (*(["seeds"] if several else []), "images", "RMSD", *targets):
        table.add_column(heading, justify="right", no_wrap=True)
    for attack in experiment.attacks:
        recipe = spec.attacks[attack]
        for steps, level in recipe.points:
            shown = _variant(attack, recipe, steps, level)
            for sources in spec.source_sets(experiment):
                found = [known.get(("+".join(sources), attack, goal, steps, level, target)) for target in targets]
                first = next((cell for cell in found if cell is not None), None)
                if first is not None:
                    rmsd = _rmsd(found, searched=recipe.budget.minimal is not None)
                    numbers = (*([f"{first['seeds']}"] if several else []), f"{first['images']}", rmsd)
                    table.add_row(shown, " + ".join(sources) or "elsewhere", *numbers, *(_cell(cell) for cell in found))
                    shown = ""
        table.add_section()
    if table.row_count and any(name in finished.clean for name in targets):
        rights = [finished.clean.get(target) for target in targets]
        asked = max(one.images for one in rights if one is not None)
        table.add_row("clean images", "", *([""] if several else []), f"{asked}", "", *map(_clean, rights))
    return table


def _clean(right: Right | None) -> Text:
    shown = "– " if right is None or not right.images else f"{100 * right.share:.0f} "
    return Text(shown, style="dim")


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
    mark = MARKS.get(str(cell["relation"]), "")
    return Text(f"{100 * float(str(cell['success'])):.0f}{mark or ' '}", style="dim" if mark else "")
