"""Matched budgets: if the budget of an attack is the RMSD of a reference attack, the attack waits for this RMSD."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from actors.execution.remaining_units import RemainingUnits
from study.images.selection import Shard
from study.planning.plan import Craft, Plan, Unit

Ready = tuple[Craft, list[Shard]]
"""An attack run (in code: craft), and the shards of images on which it can run now."""


class ReferenceRmsd:
    """The known RMSDs of the references, for each image.

    A reference is an attack run to which the budgets of other attack runs are matched.
    """

    def __init__(self, plan: Plan, known: Mapping[str, Mapping[str, float]]) -> None:
        """`known`: the RMSDs in existing rows, in pixel values 0..255, by id of the reference and then by image."""
        self._plan = plan
        self._known = {reference: dict(known.get(reference, {})) for reference in references(plan)}
        images = [one.image for shard in plan.shards for one in shard.images]
        self._missing = {reference: sum(one not in of for one in images) for reference, of in self._known.items()}
        """Number of images whose RMSD is not known yet, by id of the reference. It is stored, because every unit asks
        for it."""
        self._means: dict[str, float] = {}

    def is_reference(self, craft: Craft) -> bool:
        """Return whether the budget of another attack run is matched to `craft`."""
        return craft.id in self._known

    def learn(self, unit: Unit, rmsd: Sequence[float]) -> bool:
        """Store the RMSD of each image of a reference's unit. Returns False if all these RMSDs were known before."""
        known = self._known[unit.craft.id]
        images = [one.image for one in unit.shard.images]
        new = sum(one not in known for one in images)
        self._missing[unit.craft.id] -= new
        known.update(zip(images, rmsd, strict=True))
        return new > 0

    def complete(self, craft: Craft) -> bool:
        """Return whether an attack run needs no reference, or the RMSD of its reference is known for all images."""
        return craft.reference is None or not self._missing[craft.reference]

    def ready(self, unit: Unit) -> bool:
        """Return whether the budget of a unit is known."""
        return unit.craft.reference is None or self.of(unit) is not None

    def of(self, unit: Unit) -> tuple[float, ...] | None:
        """Return the RMSD that each image of a unit must have.

        Returns None if the budget of the unit is not matched, or if the RMSD is not known yet.
        """
        craft = unit.craft
        if craft.reference is None:
            return None
        known = self._known[craft.reference]
        images = [one.image for one in unit.shard.images]
        if craft.recipe.budget.by == "image":
            return tuple(known[one] for one in images) if all(one in known for one in images) else None
        if not self.complete(craft):
            return None
        if craft.reference not in self._means:
            everyone = [one.image for shard in self._plan.shards for one in shard.images]
            # fsum rounds only once, so the mean does not depend on the order in which units end.
            self._means[craft.reference] = math.fsum(known[one] for one in everyone) / len(everyone)
        return (self._means[craft.reference],) * len(images)


class Dependencies:
    """Decides which units of a plan can run at the start, and which must wait for the RMSD of a reference."""

    def __init__(self, plan: Plan, remaining: RemainingUnits, rmsd: ReferenceRmsd) -> None:
        self._plan = plan
        self._remaining = remaining
        self._rmsd = rmsd
        self._waiting: dict[str, list[Craft]] = {}

    def start(self) -> Iterator[Ready]:
        """Yield the units whose budgets are known now, by attack run. All other units wait for `released`."""
        for craft in self._plan.crafts.values():
            complete = self._rmsd.complete(craft)
            if not complete:
                assert craft.reference is not None, "only crafts with a matched budget wait"
                self._waiting.setdefault(craft.reference, []).append(craft)
            if complete or _by_image(craft):
                yield craft, [unit.shard for unit in self._remaining.to_craft(craft) if self._rmsd.ready(unit)]

    def released(self, reference: Unit) -> Iterator[Ready]:
        """Yield the units that can run now, because the RMSD of the unit `reference` has become known.

        A unit whose budget is matched by image waits for the same shard of the reference. A unit whose budget is
        matched by mean waits for all shards of the reference.
        """
        waiting, self._waiting[reference.craft.id] = self._waiting.get(reference.craft.id, []), []
        for craft in waiting:
            complete = self._rmsd.complete(craft)
            if _by_image(craft) or not complete:
                self._waiting[reference.craft.id].append(craft)
            if _by_image(craft) or complete:
                on = [reference.shard] if _by_image(craft) else None
                yield craft, [unit.shard for unit in self._remaining.to_craft(craft, on)]

    def blocked(self) -> Iterator[Unit]:
        """Yield the units that cannot run, because the RMSD to which their budget is matched is not known."""
        for crafts in self._waiting.values():
            for craft in crafts:
                for unit in self._remaining.to_craft(craft):
                    if not self._rmsd.ready(unit):
                        yield unit


def references(plan: Plan) -> set[str]:
    """Return the ids of the references: the attack runs to which the budgets of other attack runs are matched."""
    return {craft.reference for craft in plan.crafts.values() if craft.reference is not None}


def _by_image(craft: Craft) -> bool:
    return craft.recipe.budget.by == "image"
