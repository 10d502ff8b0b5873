"""A plan as the tracker needs it: numbers for crafts, targets, cells and units, and the units at which it logs.

A unit's number is that of the plan: craft by craft, shard by shard. Its turn says where in the history it stands: what
the driver would do first comes first, roughly, but the turn is computed from the plan alone. Whoever computes it from
the same spec and the same selected images gets the same, whatever was finished when.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from study.planning.relation import Relation

if TYPE_CHECKING:
    from study.planning.plan import Craft, Plan
    from study.spec.schema import Spec

STRIDE = 1000
"""W&B steps that one unit has: its own, and those between it and the next for what depends on the time."""

_MOST_POINTS = 1000
"""Rows of history that depend on content."""


@dataclass(frozen=True)
class Traced:
    """One craft: its id, what tells it from the others, and where it is scored.

    `points` are (steps, budget); one alone, with no budget, where the budget is searched for. `gradients` is the
    number for one image.
    """

    id: str
    sources: str
    attack: str
    goal: str
    seed: int
    experiments: tuple[tuple[str, tuple[str, ...]], ...]
    """Those that name the craft, each with the targets that it names; not those that only match a budget to it."""
    targets: tuple[str, ...]
    relations: tuple[Relation, ...]
    """How each target stands to the sources."""
    points: tuple[tuple[int, float | None], ...]
    minimal: bool
    gradients: int
    awaited: bool
    """Whether another craft's budget is matched to this one."""

    @property
    def cells(self) -> int:
        return len(self.targets) * len(self.points)


def _naming(spec: Spec, craft: Craft) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The experiments whose tables a craft is in, and the targets of each."""
    return tuple(
        (name, spec.targets(one))
        for name, one in spec.experiments.items()
        if craft.attack in one.attacks
        and craft.goal in one.goal
        and craft.seed in spec.seeds_of(one)
        and craft.sources in spec.source_sets(one)
    )


@dataclass(frozen=True)
class Cell:
    """One number of a table: a craft at one of its points against one target."""

    craft: Traced
    target: int
    point: int

    @property
    def key(self) -> str:
        """What its curves are called: letters, digits, `_`, `+` and `-`, and one `/` before the target."""
        return f"{self.row}/{_plain(self.craft.targets[self.target])}"

    @property
    def row(self) -> str:
        """The same without the target."""
        craft = self.craft
        name = f"{_plain(craft.sources)}-{_plain(craft.attack)}-{craft.goal}-s{craft.seed}"
        if len(craft.points) == 1:
            return name
        steps, budget = craft.points[self.point]
        return f"{name}-{steps}" + ("" if budget is None else f"-{_plain(f'{budget:g}')}")


@dataclass(frozen=True)
class Outline:
    """Crafts in the order of the plan, and the number of images of each shard."""

    crafts: tuple[Traced, ...]
    shards: tuple[int, ...]

    @classmethod
    def of(cls, plan: Plan) -> Outline:
        crafts = []
        awaited = {craft.reference for craft in plan.crafts.values()}
        for craft in plan.crafts.values():
            minimal = bool(craft.recipe.budget.minimal)
            crafts.append(
                Traced(
                    id=craft.id,
                    sources="+".join(craft.sources) or "elsewhere",
                    attack=craft.attack,
                    goal=craft.goal,
                    seed=craft.seed,
                    experiments=_naming(plan.spec, craft),
                    targets=craft.targets,
                    relations=tuple(craft.relations[target] for target in craft.targets),
                    points=((craft.recipe.steps, None),) if minimal else tuple(craft.recipe.points),
                    minimal=minimal,
                    gradients=craft.gradients,
                    awaited=craft.id in awaited,
                )
            )
        return cls(tuple(crafts), tuple(len(shard.images) for shard in plan.shards))

    def data(self) -> dict[str, Any]:
        """As JSON takes it; `from_data` brings it back."""
        return {"crafts": [asdict(craft) for craft in self.crafts], "shards": list(self.shards)}

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Outline:
        crafts = []
        for one in data["crafts"]:
            lists = {key: tuple(one[key]) for key in ("targets", "relations")}
            lists["experiments"] = tuple((name, tuple(targets)) for name, targets in one["experiments"])
            points = tuple((steps, budget) for steps, budget in one["points"])
            crafts.append(Traced(**{**one, **lists, "points": points}))
        return cls(tuple(crafts), tuple(data["shards"]))

    @property
    def units(self) -> int:
        return len(self.crafts) * len(self.shards)

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """All of them: craft by craft, target by target, point by point."""
        return tuple(
            Cell(craft, target, point)
            for craft in self.crafts
            for target in range(len(craft.targets))
            for point in range(len(craft.points))
        )

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """At how many units, by turn, a row of history is due: ascending, the last is all units."""
        count = min(self.units, _MOST_POINTS)
        return np.array([(index + 1) * self.units // count for index in range(count)], dtype=np.int64)

    @cached_property
    def turns(self) -> NDArray[np.int64]:
        """The turn of every unit, 0 and up.

        Like the driver: of the models that gradients are taken from, those that have most left to do; of their crafts,
        what others wait for, then the longest.
        """
        groups: dict[str, list[int]] = {}
        for number, craft in enumerate(self.crafts):
            groups.setdefault(craft.sources, []).append(number)
        shards = np.arange(len(self.shards))
        units, left = [], []
        for numbers in groups.values():
            numbers.sort(key=lambda number: (not self.crafts[number].awaited, -self.crafts[number].gradients, number))
            theirs = (np.array(numbers)[:, None] * len(shards) + shards).reshape(-1)
            work = np.maximum(self.gradients[theirs], 1)
            units.append(theirs)
            left.append(work.sum() - np.cumsum(work) + work)
        order = np.concatenate(units)[np.argsort(-np.concatenate(left), kind="stable")]
        turns = np.empty_like(order)
        turns[order] = np.arange(len(order))
        return turns

    @cached_property
    def gradients(self) -> NDArray[np.int64]:
        """Image gradients of every unit."""
        each = np.array([craft.gradients for craft in self.crafts], dtype=np.int64)
        return (each[:, None] * np.array(self.shards, dtype=np.int64)).reshape(-1)

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """How many targets every unit has."""
        return np.repeat([len(craft.targets) for craft in self.crafts], len(self.shards))

    @cached_property
    def expected(self) -> NDArray[np.int64]:
        """How many (unit, target) pairs belong to each row of history, and to none before."""
        return np.diff(self._up_to(self.targets)[self.ends], prepend=0)

    def done_at(self, units: int) -> tuple[int, int]:
        """Images attacked and image gradients taken in the first `units` units by turn."""
        return int(self._images_up_to[units]), int(self._gradients_up_to[units])

    @cached_property
    def _images_up_to(self) -> NDArray[np.int64]:
        return self._up_to(np.tile(np.array(self.shards, dtype=np.int64), len(self.crafts)))

    @cached_property
    def _gradients_up_to(self) -> NDArray[np.int64]:
        return self._up_to(self.gradients)

    def _up_to(self, each: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sums over the first 0, 1, 2 … units by turn."""
        ordered = np.empty_like(each)
        ordered[self.turns] = each
        return np.concatenate([[0], np.cumsum(ordered)])


def _plain(name: str) -> str:
    """W&B's charts take letters, digits and little else for names."""
    return re.sub(r"[^A-Za-z0-9_+-]", "_", name)


def unique(keys: Sequence[str]) -> list[str]:
    """The same keys, with a number behind those that would be there twice."""
    seen: dict[str, int] = {}
    result = []
    for key in keys:
        seen[key] = seen.get(key, 0) + 1
        result.append(key if seen[key] == 1 else f"{key}_{seen[key]}")
    return result
