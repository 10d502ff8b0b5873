"""The unfinished units (an attack run on one shard of the images) of a plan.

If an earlier launch kept the images of a unit, they are only shown to targets. For every other unit, the attack runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from study.images.selection import Shard
from study.planning.plan import Craft, Finished, Plan, Unit
from study.results.kept_images import KeptImages


class RemainingUnits:
    """The units of `plan` that are not `done`. The methods yield units one by one, because there may be millions."""

    def __init__(self, plan: Plan, done: Finished, kept: KeptImages | None = None, *, whole: bool = True) -> None:
        """`done`: the targets that need no answer, by unit id. `kept`: the images that earlier launches kept.

        `whole`: whether this launch runs the whole plan. If it does and the spec keeps images, a unit that has all rows
        but no kept images is unfinished too. If it runs only a part of the plan, a unit that has all rows is finished.
        """
        self._plan = plan
        self._done = done
        self._kept = kept.units if kept is not None else set[str]()
        self._needed = self._kept if whole else None

    def to_craft(self, craft: Craft, shards: Sequence[Shard] | None = None) -> Iterator[Unit]:
        """Yield the unfinished units of one attack run that have no kept images. `shards`: None for all shards."""
        for unit in self._plan.units_of(craft, self._done, shards, kept=self._needed):
            if unit.id not in self._kept:
                yield unit

    def to_show(self) -> Iterator[Unit]:
        """Return an iterator over the unfinished units that have kept images."""
        # Without kept images, skip the loop. With millions of units, it would delay the first task.
        units = self._plan.units(self._done, kept=self._needed) if self._kept else iter(())
        return (unit for unit in units if unit.id in self._kept)
