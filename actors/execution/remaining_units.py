"""The unfinished units (an attack run on one shard) of a plan.

Kept images of a unit are only shown to its targets. For every other unit, the attack runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from study.images.selection import Shard
from study.planning.plan import Craft, Finished, Plan, Unit
from study.results.kept_images import KeptImages


class RemainingUnits:
    """The units of `plan` that are not `done`. Methods yield them one by one, because there may be millions."""

    def __init__(self, plan: Plan, done: Finished, kept: KeptImages | None = None, *, whole: bool = True) -> None:
        """`done`: targets that need no answer, by unit id. `kept`: the images that earlier launches kept.

        If the spec keeps images, a unit that has all rows but no kept images is unfinished too. `whole` is False in a
        launch of a part of the plan. In such a launch, a unit that has all rows is finished.
        """
        self._plan = plan
        self._done = done
        self._kept = kept.units if kept is not None else set[str]()
        self._needed = self._kept if whole else None

    def to_craft(self, craft: Craft, shards: Sequence[Shard] | None = None) -> Iterator[Unit]:
        """The unfinished units of one attack run that have no kept images. `shards`: None for all shards."""
        for unit in self._plan.units_of(craft, self._done, shards, kept=self._needed):
            if unit.id not in self._kept:
                yield unit

    def to_show(self) -> Iterator[Unit]:
        """The unfinished units that have kept images."""
        # Without kept images, skip the loop: with millions of units, the first task would wait for its end.
        units = self._plan.units(self._done, kept=self._needed) if self._kept else iter(())
        return (unit for unit in units if unit.id in self._kept)
