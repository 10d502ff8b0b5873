"""The history of a study: the success rate of each cell after each finished unit, as rows of numbers by metric name.

A cell is one target and one attack run, at one number of steps and one budget. A unit is one attack run on one shard of
the images.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.analysis.intervals import wilson
from study.analysis.rates import hits

if TYPE_CHECKING:
    from study.planning.plan import Craft, Plan
    from study.spec.schema import Spec

COLUMNS = (
    *("craft", "unit", "goal", "steps", "budget", "label", "target_label", "target", "clean_top1", "top1", "top5"),
    *("names", "clean_names", "wanted_names", "true_names", "refused", "rmsd"),
)
"""The columns of result rows that the history needs."""

MOST_CURVES = 400
"""The largest number of cells for which each cell gets curves. With more curves, W&B's pages become slow. A larger
study has only the curves of experiments, and the table of all cells."""

_MOST_ROWS = 1000

Row = dict[str, float | int]


@dataclass(frozen=True)
class Outline:
    """The part of a plan that the history needs. It is pickled and sent to the tracking process.

    Attributes:
        cells: One row for each cell. `craft` (the id of the attack run), `target`, `steps` and `budget` are the key of
            the cell; `budget` is null if the attack searches for its budget. `number` is the index of the attack run,
            `column` is the index of the target among the targets of the attack run, and `cell` is the index of the
            cell.
        names: The unique name of each cell in metrics.
        sums: For each metric that combines cells, by metric name, the indices of these cells.
        searches: The ids of the attack runs that search for their budget.
        gradients: For each attack run, the number of gradients for one image.
        targets: For each attack run, the number of targets.
        shards: For each shard, the number of images.
    """

    cells: pl.DataFrame
    names: list[str]
    sums: Mapping[str, list[int]]
    searches: list[str]
    gradients: list[int]
    targets: list[int]
    shards: list[int]

    @classmethod
    def of(cls, plan: Plan) -> Outline:
        crafts = list(plan.crafts.values())
        cells: list[tuple[str, str, int, float | None, int, int, int]] = []
        names: list[str] = []
        sums: dict[str, list[int]] = {}
        for number, craft in enumerate(crafts):
            experiments = _experiments(plan.spec, craft)
            points = [(craft.recipe.steps, None)] if craft.recipe.budget.minimal else craft.recipe.scored_points
            for column, target in enumerate(craft.targets):
                for steps, budget in points:
                    cells.append((craft.id, target, steps, budget, number, column, len(cells)))
                    names.append(_name(craft, target, None if len(points) == 1 else (steps, budget)))
                # The last point is the end of the attack.
                for experiment, targets in experiments.items():
                    if target in targets:
                        key = f"transfer/{experiment}-{craft.goal}/{craft.relations[target]}_box"
                        sums.setdefault(key, []).append(len(cells) - 1)
        schema: dict[str, type[pl.DataType]] = {
            "craft": pl.String, "target": pl.String, "steps": pl.Int32, "budget": pl.Float64,
            "number": pl.Int64, "column": pl.Int64, "cell": pl.Int64,
        }  # fmt: skip
        return cls(
            cells=pl.DataFrame(cells, schema=schema, orient="row"),
            names=_unique(names),
            sums=sums,
            searches=[craft.id for craft in crafts if craft.recipe.budget.minimal],
            gradients=[craft.gradients for craft in crafts],
            targets=[len(craft.targets) for craft in crafts],
            shards=[len(shard.images) for shard in plan.shards],
        )

    @property
    def units(self) -> int:
        """The number of units of the plan: attack runs times shards."""
        return len(self.gradients) * len(self.shards)


class History:
    """Adds up result rows, and yields rows of history. Each target of a unit is counted once.

    The row of history after n finished units holds:

    - `units`, `images` and `gradients`: the numbers of finished units, of their images and of their gradients.
    - `transfer/<experiment>-<goal>/black_box`, `grey_box` and `white_box`: the success rate over all attack runs of an
      experiment, on the images of the finished attacks.
    - `success/<cell>`, `success_low/<cell>`, `success_high/<cell>` (Wilson, 95 %) and `rmsd/<cell>` (mean, in pixel
      values 0..255), for each cell that has changed since the previous row.

    There is at most one row for each n. A study of more than 1,000 units has a row only after every k units. The number
    k is chosen so that there are at most 1,000 rows.
    """

    def __init__(self, outline: Outline, logged: int) -> None:
        """`logged`: the number n of the last row that earlier launches logged; 0 if there is none.

        The first new row has all cells.
        """
        self._outline = outline
        self._logged = logged
        self._every = -(-outline.units // _MOST_ROWS)
        self._targets = np.repeat(outline.targets, len(outline.shards))
        self._images = np.tile(outline.shards, len(outline.gradients))
        self._gradients = np.repeat(outline.gradients, len(outline.shards)) * self._images
        self._have = np.zeros((outline.units, max(outline.targets, default=0)), dtype=np.bool_)
        self.done: NDArray[np.bool_] = np.zeros(outline.units, dtype=np.bool_)
        """For each unit of the plan, whether all targets of the unit have answered."""
        self._counts = np.zeros((len(outline.names), 3))  # For each cell: images, successes, and the sum of RMSD.
        self._changed = np.ones(len(outline.names), dtype=np.bool_)

    def add(self, rows: pl.LazyFrame) -> Iterator[Row]:
        """Add result rows, which have the columns `COLUMNS`, and yield the new rows of history.

        Result rows of other plans, and result rows that were added before, are ignored.
        """
        counted = self._counted(rows).with_columns(piece=(pl.col("unit").rank("dense") - 1) // self._every)
        for piece in counted.partition_by("piece", maintain_order=True):
            self._add(piece)
            units = int(self.done.sum())
            if units >= self._logged + self._every or (units == self._outline.units > self._logged):
                self._logged = units
                yield self._row()

    def _counted(self, rows: pl.LazyFrame) -> pl.DataFrame:
        """Return the number of images, the successes and the sum of RMSD for each unit and cell, sorted by unit.

        The column `unit` is the index of the unit in the plan.
        """
        outline = self._outline
        searched = pl.col("craft").is_in(outline.searches)
        # In an id `<craft>.0007-<digest>`, the number of the shard is between the last full stop and the last hyphen.
        shard = pl.col("unit").str.extract(r"\.(\d+)-[^.-]*$", 1).cast(pl.Int64, strict=False)
        return (
            rows.with_columns(hit=hits(rows), budget=pl.when(searched).then(None).otherwise("budget"))
            .group_by("craft", "unit", "target", "steps", "budget")
            .agg(pl.len().alias("images"), pl.col("hit").sum(), pl.col("rmsd").sum())
            .collect(engine="streaming")
            .join(outline.cells, on=["craft", "target", "steps", "budget"], nulls_equal=True)
            .with_columns(shard=shard)
            .filter(pl.col("shard") < len(outline.shards))
            .with_columns(unit=pl.col("number") * len(outline.shards) + pl.col("shard"))
            .sort("unit", "cell")
        )

    def _add(self, counted: pl.DataFrame) -> None:
        units, columns = counted["unit"].to_numpy(), counted["column"].to_numpy()
        fresh = ~self._have[units, columns]
        self._have[units, columns] = True
        self.done[units] = self._have[units].sum(axis=1) == self._targets[units]
        cells = counted["cell"].to_numpy()[fresh]
        np.add.at(self._counts, cells, counted.select("images", "hit", "rmsd").to_numpy()[fresh])
        self._changed[cells] = True

    def _row(self) -> Row:
        done, counts = self.done, self._counts
        row: Row = {
            "units": int(done.sum()),
            "images": int(self._images[done].sum()),
            "gradients": int(self._gradients[done].sum()),
        }
        for name, cells in self._outline.sums.items():
            images, successes, _ = counts[cells].sum(axis=0).tolist()
            if images:
                row[name] = successes / images
        changed = np.flatnonzero(self._changed & (counts[:, 0] > 0))
        self._changed[:] = False
        if len(counts) <= MOST_CURVES:
            low, high = wilson(pl.col("hits"), pl.col("images"))
            rates = pl.DataFrame(counts[changed], schema=["images", "hits", "moved"]).select(
                success=pl.col("hits") / pl.col("images"),
                success_low=low,
                success_high=high,
                rmsd=pl.col("moved") / pl.col("images"),
            )
            for cell, rate in zip(changed, rates.iter_rows(named=True), strict=True):
                row |= {f"{metric}/{self._outline.names[cell]}": value for metric, value in rate.items()}
        return row


def _experiments(spec: Spec, craft: Craft) -> dict[str, tuple[str, ...]]:
    """Return the targets of each experiment that contains the attack run, by experiment.

    An experiment that only uses the RMSD of this attack run as a budget is left out.
    """
    return {
        name: spec.targets(one, craft.sources)
        for name, one in spec.experiments.items()
        if craft.attack in one.attacks
        and craft.goal in one.goal
        and craft.seed in spec.seeds_of(one)
        and craft.sources in spec.source_sets(one)
    }


def _name(craft: Craft, target: str, point: tuple[int, float | None] | None) -> str:
    """Return the name of a cell in metrics: sources, attack, goal, seed and point, then `/` and the target.

    All other characters are letters, digits, `_`, `+` and `-`. `point`: number of steps and budget; None if the attack
    has a single point.
    """
    sources = "+".join(craft.sources) or "elsewhere"
    words = [sources, craft.attack, craft.goal, f"s{craft.seed}"]
    words += [] if point is None else [f"{one:g}" for one in point if one is not None]
    return "/".join(re.sub(r"[^A-Za-z0-9_+-]", "_", part) for part in ("-".join(words), target))


def _unique(names: list[str]) -> list[str]:
    """Return `names`, made unique: the second and each later use of a name gets a number."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return found
