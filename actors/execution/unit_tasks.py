"""The tasks of a unit: one task crafts its images, and further tasks show these images to its targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from actors.backends.interface import Ref
from actors.execution.clean_images import Images
from actors.resources.placement import ModelCapacity
from actors.scheduling.backlog import Key, Task, predict_key
from actors.scheduling.messages import CraftJob, PredictJob, Truth
from study.attacks.recipe import Search
from study.images.selection import Selected
from study.planning.plan import Craft, Plan, Unit, objective_labels

_MOST_TARGETS = 4
"""Largest number of targets in a call. A call with more targets would take longer than an attack. If it were lost, more
models would have to be loaded again."""

_Shared = tuple[Sequence[Selected], tuple[int, ...], Mapping[str, str]]
"""What all units of an attack run share: the pool, the labels of the pool, and the digests of the source models, by
name. The pool has the further images that the attack mixes in, as admix does."""


class UnitTasks:
    """Makes the tasks of the units of a plan, for workers that can hold models up to `capacity`."""

    def __init__(self, plan: Plan, images: Images, capacity: ModelCapacity) -> None:
        self._plan = plan
        self._images = images
        self._capacity = capacity
        self._shared: dict[str, _Shared] = {}
        self._groups: dict[tuple[bool, tuple[str, ...]], list[tuple[str, ...]]] = {}

    def craft(self, unit: Unit, rmsd: tuple[float, ...] | None) -> Task:
        """Return the task that crafts the images of `unit`. The context of the task is the unit.

        `rmsd`: the RMSD that each image must have, if the budget is matched; None for other budgets.
        """
        craft = unit.craft
        pool, labels, models = self._shared_by(craft)
        job = CraftJob(
            attack=craft.recipe,
            goal=craft.goal,
            key=craft.key,
            images=tuple(one.image for one in unit.shard.images),
            labels=tuple(objective_labels(craft.goal, unit.shard.images)),
            true_labels=tuple(one.label for one in unit.shard.images),
            rmsd=rmsd,
            pool=labels,
        )
        cost = float(max(craft.gradients, 1) * len(unit.shard.images))
        title = f"{craft.attack} on {' + '.join(craft.sources) or 'elsewhere'}"
        return Task("craft", models, job, lambda: self._images.of(unit, pool), cost, unit, title=title)

    def _shared_by(self, craft: Craft) -> _Shared:
        """Return the pool, labels and digests that all units of an attack run share."""
        found = self._shared.get(craft.id)
        if found is None:
            pool = self._plan.pool(craft)
            models = {name: self._plan.digests[name] for name in craft.sources}
            found = self._shared[craft.id] = (pool, tuple(one.label for one in pool), models)
        return found

    def predict(self, unit: Unit, pixels: Ref, targets: tuple[str, ...], context: Any) -> Task:
        """Return the task that shows the adversarial images of a unit to `targets` in one call.

        `pixels`: the reference to the images. `context`: what the scheduler returns together with the result.
        """
        images = tuple(one.image for one in unit.shard.images)
        truth = None if self._is_local(targets[0]) else _truth(unit, targets[0])
        job = PredictJob(targets, self._plan.spec.numerics.batch, images, _search(unit), truth=truth)
        models = {target: self._plan.digests[target] for target in targets}
        cost = _predict_cost(unit.craft, len(images), targets)
        return Task("predict", models, job, lambda: pixels, cost, context, service=not self._is_local(targets[0]))

    def expected(self, craft: Craft, images: int) -> Iterator[tuple[Key, float]]:
        """Yield key and cost of the prediction tasks that follow once `images` images of `craft` are crafted."""
        for targets in self.groups(craft, craft.targets):
            yield predict_key(targets, service=not self._is_local(targets[0])), _predict_cost(craft, images, targets)

    def groups(self, craft: Craft, wanted: Sequence[str]) -> list[tuple[str, ...]]:
        """Return the targets in groups. One call shows images to all targets of a group.

        There are few groups, because each call costs the driver time. The models of a group fill at most half of a
        worker's capacity. In a search for the minimal RMSD, each target has a call of its own, because the search takes
        long. A remote service has a call of its own, because it has its own actor.
        """
        search = craft.recipe.budget.minimal is not None
        key = (search, tuple(wanted))
        if key not in self._groups:
            self._groups[key] = self._grouped(wanted, search)
        return self._groups[key]

    def _grouped(self, wanted: Sequence[str], search: bool) -> list[tuple[str, ...]]:
        groups = list[tuple[str, ...]]()
        for name in wanted:
            with_it = (*groups[-1], name) if groups else (name,)
            fits = len(with_it) <= _MOST_TARGETS and self._capacity.size_of(with_it) <= self._capacity.limit / 2
            if groups and fits and not search and self._is_local(name) and self._is_local(with_it[0]):
                groups[-1] = with_it
            else:
                groups.append((name,))
        return groups

    def _is_local(self, name: str) -> bool:
        return self._plan.spec.models[name].remote is None


def _predict_cost(craft: Craft, images: int, targets: Sequence[str]) -> float:
    """Return the number of predictions: images, times the versions of each image, times targets."""
    minimal = craft.recipe.budget.minimal
    variants = len(minimal.levels) if minimal else len(craft.points)
    return float(images * variants * len(targets))


def _truth(unit: Unit, service: str) -> Truth:
    """Return the labels and names with which the answers of `service` for the images of a unit are compared."""
    images = unit.shard.images
    targeted = unit.craft.goal == "targeted"
    return Truth(
        labels=tuple(one.label for one in images),
        target_labels=tuple(one.target_label for one in images) if targeted else None,
        clean_names=tuple(one.clean[service].names or () for one in images),
    )


def _search(unit: Unit) -> Search | None:
    """Return the search for the minimal RMSD along rays; None if the unit has another budget."""
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
