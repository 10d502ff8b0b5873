"""Transfer matrices for the terminal: a table per experiment, attack and goal, sources by targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import polars as pl
from rich import box
from rich.table import Table
from rich.text import Text

from study.analysis.transfer import success_rates
from study.spec import Experiment, Spec

_TITLES = {
    "untargeted": "% of images whose label the target model gets wrong",
    "targeted": "% of images that the target model gives the target label",
}

Cells = Mapping[tuple[str, str, str, str], Mapping[str, object]]


def matrices(spec: Spec, rows: pl.LazyFrame) -> Iterator[Table]:
    """The matrices of every experiment that has rows, in the spec's order.

    Rows are the source models with the mean RMSD of their images, columns the targets; `*` marks white-box cells.
    """
    rates = success_rates(rows, by=("sources", "attack", "goal", "target")).to_dicts()
    cells: Cells = {
        (rate["sources"], rate["attack"], rate["goal"], rate["target"]): rate for rate in rates
    }
    for name, experiment in spec.experiments.items():
        for goal in experiment.goal:
            for attack in experiment.attacks:
                table = _matrix(spec, name, experiment, attack, goal, cells)
                if table is not None:
                    yield table


def _matrix(
    spec: Spec, name: str, experiment: Experiment, attack: str, goal: str, cells: Cells
) -> Table | None:
    targets = spec.targets(experiment)
    table = Table(
        title=f"{name}: {attack}, {goal}",
        caption=f"{_TITLES[goal]}; * white-box",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
    )
    table.add_column("source models", no_wrap=True)
    table.add_column("images", justify="right")
    table.add_column("RMSD", justify="right")
    for target in targets:
        table.add_column(target, justify="right")
    for sources in experiment.sources.resolve(tuple(spec.models)):
        found = [cells.get(("+".join(sources), attack, goal, target)) for target in targets]
        first = next((cell for cell in found if cell is not None), None)
        if first is not None:
            table.add_row(
                " + ".join(sources),
                f"{first['images']}",
                f"{first['rmsd']:.2f}",
                *(_cell(cell) for cell in found),
            )
    return table if table.row_count else None


def _cell(cell: Mapping[str, object] | None) -> Text:
    if cell is None:
        return Text("–", style="dim")
    white = bool(cell["white_box"])
    return Text(f"{100 * float(str(cell['success'])):.0f}{'*' if white else ' '}", style="dim" if white else "")
