"""What is asked of workers for a plan: a task for each unit, and those that show its batch to its targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from actors.backends.interface import Ref
from actors.execution.clean_images import Images
from actors.resources.placement import MachineRoom
from actors.scheduling.backlog import Key, Task, predict_key
from actors.scheduling.messages import CraftJob, PredictJob
from study.attacks.recipe import Search
from study.planning.plan import Craft, Plan, Unit, objective_labels

_TOGETHER = 4
"""Targets at most in one call: more would make a call longer than crafting, and loading them dear."""


class Tasks:
    """The tasks of a plan, for actors that hold as much as `room`."""

    def __init__(self, plan: Plan, images: Images, room: MachineRoom) -> None:
        self._plan = plan
        self._images = images
        self._room = room
        self._groups: dict[tuple[bool, tuple[str, ...]], list[tuple[str, ...]]] = {}

    def craft(self, unit: Unit, rmsd: tuple[float, ...] | None) -> Task:
        """Craft a unit, to the `rmsd` of each image where its budget is matched. Its `about` is the unit."""
        craft = unit.craft
        pool = self._plan.pool(craft)
        job = CraftJob(
            attack=craft.recipe,
            goal=craft.goal,
            key=craft.key,
            images=tuple(one.image for one in unit.shard.images),
            labels=tuple(objective_labels(craft.goal, unit.shard.images)),
            own=tuple(one.label for one in unit.shard.images),
            rmsd=rmsd,
            pool=tuple(one.label for one in pool),
        )
        models = {name: self._plan.digests[name] for name in craft.sources}
        cost = float(max(craft.gradients, 1) * len(unit.shard.images))
        return Task("craft", models, job, lambda: self._images.of(unit, pool), cost, unit)

    def show(self, unit: Unit, pixels: Ref, targets: tuple[str, ...], about: Any) -> Task:
        """Show a unit's batch to `targets`, in one call."""
        images = tuple(one.image for one in unit.shard.images)
        job = PredictJob(targets, self._plan.spec.numerics.batch, images, _search(unit))
        models = {target: self._plan.digests[target] for target in targets}
        cost = _shown(unit.craft, len(images), targets)
        return Task("predict", models, job, lambda: pixels, cost, about, service=not self._local(targets[0]))

    def coming(self, craft: Craft, images: int) -> Iterator[tuple[Key, float]]:
        """What showing so many images of a craft to its targets will cost, by the key of those tasks."""
        for targets in self.together(craft, craft.targets):
            yield predict_key(targets, service=not self._local(targets[0])), _shown(craft, images, targets)

    def together(self, craft: Craft, wanted: Sequence[str]) -> list[tuple[str, ...]]:
        """A unit's targets in few calls, for each call costs the driver time: as many as half of an actor can hold.

        A search of the minimal RMSD takes long, and services have actors of their own: one call for each.
        """
        alone = craft.recipe.budget.minimal is not None
        same = (alone, tuple(wanted))
        if same not in self._groups:
            self._groups[same] = self._together(wanted, alone)
        return self._groups[same]

    def _together(self, wanted: Sequence[str], alone: bool) -> list[tuple[str, ...]]:
        groups = list[tuple[str, ...]]()
        for name in wanted:
            with_it = (*groups[-1], name) if groups else (name,)
            fits = len(with_it) <= _TOGETHER and self._room.of(with_it) <= self._room.most / 2
            if groups and fits and not alone and self._local(name) and self._local(with_it[0]):
                groups[-1] = with_it
            else:
                groups.append((name,))
        return groups

    def _local(self, name: str) -> bool:
        return self._plan.spec.models[name].remote is None


def _shown(craft: Craft, images: int, targets: Sequence[str]) -> float:
    """What it costs to show so many images to targets."""
    minimal = craft.recipe.budget.minimal
    variants = len(minimal.levels) if minimal else len(craft.recipe.points)
    return float(images * variants * len(targets))


def _search(unit: Unit) -> Search | None:
    """What targets search for, where they are shown rays."""
    craft = unit.craft
    if craft.recipe.budget.minimal is None:
        return None
    return Search(
        levels=craft.recipe.budget.minimal.levels,
        goal=craft.goal,
        labels=tuple(objective_labels(craft.goal, unit.shard.images)),
        images=tuple(one.image for one in unit.shard.images),
        key=craft.key,
    )
