"""The unfinished units of a plan: each begins with its attack, or from kept images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from study.images.selection import Shard
from study.planning.plan import Craft, Finished, Plan, Unit
from study.results.kept_images import KeptImages


class RemainingUnits:
    """The units of `plan` that are not `done`. None is held in memory: there may be millions."""

    def __init__(self, plan: Plan, done: Finished, kept: KeptImages | None = None, *, whole: bool = True) -> None:
        """`done` has the targets that need no answer, by unit id; `kept` are the images that earlier launches kept.

        If the spec keeps images, a unit with all rows but without kept images is unfinished too. `whole` is False in a
        launch of a part of the plan: there, a unit with all rows is finished.
        """
        self._plan = plan
        self._done = done
        self._kept = kept.units if kept is not None else set[str]()
        self._needed = self._kept if whole else None

    def to_craft(self, craft: Craft, shards: Sequence[Shard] | None = None) -> Iterator[Unit]:
        """The units of one craft, on `shards` or on all, that have no kept images."""
        for unit in self._plan.units_of(craft, self._done, shards, kept=self._needed):
            if unit.id not in self._kept:
                yield unit

    def to_show(self) -> Iterator[Unit]:
        """The units that have kept images and targets left."""
        # Without kept images, no unit is looked at: there may be millions, and the first task waits for it.
        units = self._plan.units(self._done, kept=self._needed) if self._kept else iter(())
        return (unit for unit in units if unit.id in self._kept)
