"""Makes the rows of transfer matrices, for the terminal, for tables like those of papers, and for the HTML report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from study.report.wording import point_name
from study.spec.schema import Spec


@dataclass(frozen=True)
class MatrixRow:
    """A row of a transfer matrix: an attack at one point (number of steps and budget) on one source set.

    `variant` is the name of the attack at this point in tables. `cells` has, for each target, a row of
    `experiments.averaged`; None if the run has no rows for the target.
    """

    attack: str
    variant: str
    sources: str
    cells: tuple[Mapping[str, Any] | None, ...]


def matrix_rows(spec: Spec, experiment: str, goal: str, cells: pl.DataFrame) -> Iterator[MatrixRow]:
    """Yield the rows of an experiment's matrix for one goal, in the order of its attacks, points and source sets.

    Rows without any cell are left out. `cells`: the result of `experiments.averaged`.
    """
    one = spec.experiments[experiment]
    targets = spec.targets(one)
    keys = ("attack", "steps", "level", "sources", "target")
    known = {tuple(cell[key] for key in keys): cell for cell in cells.filter(goal=goal).iter_rows(named=True)}
    for variant, attack, steps, level in attack_points(spec, one.attacks):
        for source_set in spec.source_sets(one):
            sources = "+".join(source_set)
            found = tuple(known.get((attack, steps, level, sources, target)) for target in targets)
            if any(found):
                yield MatrixRow(attack, variant, sources or "elsewhere", found)


def attack_points(spec: Spec, attacks: Sequence[str]) -> Iterator[tuple[str, str, int, float | None]]:
    """Yield every point (number of steps and budget) of the attacks, in the order of the spec.

    Each is a tuple of its name in tables, the attack, the number of steps, and the budget (None without a budget).
    """
    for name in dict.fromkeys(attacks):
        recipe = spec.attacks[name]
        for steps, level in recipe.scored_points:
            yield point_name(name, recipe, steps, level), name, steps, level
