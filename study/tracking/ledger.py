"""What is known of a study, in whole numbers: now, and at every row of history, whatever order units arrive in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.tracking.outline import Outline

Counts = NDArray[np.int64]
"""(cells, 3): images, successes, and the sum of RMSDs in millionths of a grey level."""


@dataclass(frozen=True)
class Due:
    """A row of history: the first `units` units by turn are done, and this is what they come to.

    `changed` are the cells that the row before did not have like this, ascending.
    """

    units: int
    counts: Counts
    changed: tuple[int, ...]


class Ledger:
    """Adds up tallies, each (unit, target) once, and tells which rows of history can be written.

    A row about the first n units is due when all n are there: it never changes afterwards, and what was finished in
    another order, or in another launch, gives the same.
    """

    def __init__(self, outline: Outline) -> None:
        self._outline = outline
        columns = max((len(craft.targets) for craft in outline.crafts), default=0)
        self._have = np.zeros((outline.units, columns), dtype=np.bool_)
        self._missing = outline.expected.copy()
        self._waiting: dict[int, dict[int, list[int]]] = defaultdict(dict)
        self._next = 0
        self._sum = np.zeros((len(outline.cells), 3), dtype=np.int64)
        self.now: Counts = np.zeros((len(outline.cells), 3), dtype=np.int64)

    def add(self, tallies: pl.DataFrame) -> None:
        """Take counts as `Tallies.of` gives them; what is known already is left out."""
        units, columns = (tallies[name].to_numpy() for name in ("unit", "column"))
        fresh = tallies.filter(~self._have[units, columns])
        if fresh.is_empty():
            return
        pairs = fresh.select("unit", "column").unique()
        units, columns = (pairs[name].to_numpy() for name in ("unit", "column"))
        self._have[units, columns] = True
        np.subtract.at(self._missing, self._rows(units), 1)
        due = pl.Series("due", self._rows(fresh["unit"].to_numpy()))
        sums = fresh.with_columns(due).group_by("due", "cell").agg(pl.col("images", "hits", "rmsd").sum())
        cells = sums["cell"].to_numpy()
        for column, name in enumerate(("images", "hits", "rmsd")):
            np.add.at(self.now[:, column], cells, sums[name].to_numpy())
        for row, cell, *numbers in sums.iter_rows():
            known = self._waiting[row].setdefault(cell, [0, 0, 0])
            for column, number in enumerate(numbers):
                known[column] += number

    def _rows(self, units: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row of history that a unit belongs to first."""
        return np.searchsorted(self._outline.ends, self._outline.turns[units], side="right").astype(np.int64)

    def due(self) -> Iterator[Due]:
        """The rows of history that can be written and were not given before, in their order."""
        while self._next < len(self._missing) and self._missing[self._next] == 0:
            waiting = self._waiting.pop(self._next, {})
            for cell, numbers in waiting.items():
                self._sum[cell] += numbers
            units = int(self._outline.ends[self._next])
            self._next += 1
            yield Due(units, self._sum.copy(), tuple(sorted(waiting)))

    @property
    def next_units(self) -> float:
        """How many units the next row of history is about; infinite where there is none left."""
        return float("inf") if self.complete else int(self._outline.ends[self._next])

    @property
    def complete(self) -> bool:
        """Whether every row of history was given."""
        return self._next == len(self._missing)

    def whole(self) -> NDArray[np.bool_]:
        """Of every unit of the plan, whether all its targets have answered."""
        whole: NDArray[np.bool_] = self._have.sum(axis=1) == self._outline.targets
        return whole
