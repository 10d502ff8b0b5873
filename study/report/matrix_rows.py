"""The rows of a transfer matrix, for the terminal, tables in the layout of papers, and the HTML report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from study.report.wording import point_name
from study.spec.schema import Spec


@dataclass(frozen=True)
class MatrixRow:
    """An attack, or one of its points (steps and budget), on one source set.

    `variant` is the name of the point in tables. `cells`: for each target, a row of `experiments.averaged`; None if the
    run has no rows for the target.
    """

    attack: str
    variant: str
    sources: str
    cells: tuple[Mapping[str, Any] | None, ...]


def matrix_rows(spec: Spec, experiment: str, goal: str, cells: pl.DataFrame) -> Iterator[MatrixRow]:
    """The rows of an experiment that have at least one cell, in the order of its attacks, points and sources.

    `cells`: the result of `experiments.averaged`.
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
    """Yield every point of the attacks, in the order of the spec: its name in tables, attack, steps, level."""
    for name in dict.fromkeys(attacks):
        recipe = spec.attacks[name]
        for steps, level in recipe.scored_points:
            yield point_name(name, recipe, steps, level), name, steps, level
