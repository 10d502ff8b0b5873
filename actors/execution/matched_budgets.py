"""The RMSD of reference crafts, which others' budgets are matched to: known image by image, as their units end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from study.planning.plan import Craft, Plan, Unit


class Matching:
    """What is known of the references of a plan."""

    def __init__(self, plan: Plan, rmsd: Mapping[str, Mapping[str, float]]) -> None:
        """`rmsd` is what rows tell, by reference craft and image."""
        self._plan = plan
        self._rmsd = {reference: dict(rmsd.get(reference, {})) for reference in references(plan)}
        self._means: dict[str, float] = {}

    def __contains__(self, craft: Craft) -> bool:
        """Whether some other craft's budget is matched to this one."""
        return craft.id in self._rmsd

    def learn(self, unit: Unit, rmsd: Sequence[float]) -> bool:
        """A unit of a reference has ended, with the RMSD of each of its images; False where that was known."""
        known = self._rmsd[unit.craft.id]
        images = [one.image for one in unit.shard.images]
        new = not all(one in known for one in images)
        known.update(zip(images, rmsd, strict=True))
        return new

    def complete(self, craft: Craft) -> bool:
        """Whether the RMSD that the budget of a craft is matched to is known for all images; True if it is to none."""
        if craft.reference is None or craft.reference in self._means:
            return True
        known = self._rmsd[craft.reference]
        return all(one.image in known for shard in self._plan.shards for one in shard.images)

    def ready(self, unit: Unit) -> bool:
        """Whether a unit can be crafted now."""
        return unit.craft.reference is None or self.of(unit) is not None

    def of(self, unit: Unit) -> tuple[float, ...] | None:
        """The RMSD that each image of a unit is to have; None where its budget is not matched, or not known yet."""
        craft = unit.craft
        if craft.reference is None:
            return None
        known = self._rmsd[craft.reference]
        images = [one.image for one in unit.shard.images]
        if craft.recipe.budget.by == "image":
            return tuple(known[one] for one in images) if all(one in known for one in images) else None
        if not self.complete(craft):
            return None
        if craft.reference not in self._means:
            everyone = [one.image for shard in self._plan.shards for one in shard.images]
            # fsum is exact: the mean does not depend on the order in which units ended.
            self._means[craft.reference] = math.fsum(known[one] for one in everyone) / len(everyone)
        return (self._means[craft.reference],) * len(images)


def references(plan: Plan) -> set[str]:
    """Crafts whose RMSD some other's budget is matched to."""
    return {craft.reference for craft in plan.crafts.values() if craft.reference is not None}
