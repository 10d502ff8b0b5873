"""Decides whether a failed call is the fault of its task, of its actor, or of its device. Pure: no Ray, no clock.

A task that fails is tried elsewhere. If it succeeds there, the first place is to blame; if it fails in two places, the
task is to blame. A place is a lineage (an actor and its replacements), or, where a device failed, the device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence

from actors.backends.interface import Device
from actors.scheduling.actor_slot import ActorSlot
from actors.scheduling.backlog import Place, Task
from actors.scheduling.policy import QUEUE

IN_A_ROW = 3
"""Failures in a row after which a place is suspect: it gets no new work until one of these tasks has succeeded."""

OFTEN, SHARE = 5, 0.02
"""Tasks that fail on a device and succeed elsewhere; with that many, and that share of those that it executes, it is to
blame, also if it executes others in between."""

DEVICES = 3
"""Failures of devices under one task after which it is to blame, if they work otherwise; where that is not known, twice
as many. They are no attempts of the task."""


class Blame:
    """The tasks that each place has failed since its last success."""

    def __init__(self, attempts: int) -> None:
        """`attempts`: how often a task may fail, and how often its actor may die during it."""
        self._attempts = attempts
        self._failed: dict[Place, dict[Task, bool]] = {}
        """By place: the tasks that it has failed, and whether another has executed them."""
        self._executed: Counter[Place] = Counter()
        self._executed_elsewhere: Counter[Place] = Counter()

    def succeeded(self, task: Task, places: Collection[Place]) -> None:
        """Note that the task succeeded in `places`, an actor's lineage and device.

        Other places where it failed before are to blame.
        """
        for place in places:
            self._failed.pop(place, None)
            self._executed[place] += 1
        for other in task.tried.difference(places):
            self._executed_elsewhere[other] += 1
            if task in self._failed.get(other, {}):
                self._failed[other][task] = True

    def failed(self, task: Task, place: Place) -> None:
        """Note that a task failed in `place`, or that its actor died during it."""
        # If the place has succeeded between two failures of one task, the second failure is no evidence against it.
        if place not in task.tried:
            self._failed.setdefault(place, {})[task] = False
        task.tried.add(place)

    def convicted(self, task: Task, *, alone: bool) -> bool:
        """Whether the task is to blame: it used up its attempts, in two places unless there is only one (`alone`).

        If so, the places that it failed in are cleared of it.
        """
        often = max(task.failures, task.losses) >= self._attempts
        in_two = len(task.tried) >= 2 or alone or self._attempts == 1
        if not (often and in_two) and not self._breaks_devices(task, alone=alone):
            return False
        for tasks in self._failed.values():
            tasks.pop(task, None)
        return True

    def _breaks_devices(self, task: Task, *, alone: bool) -> bool:
        """Whether devices fail because of the task: at least one of them has executed others since."""
        if task.devices < DEVICES:
            return False
        devices = [place for place in task.tried if isinstance(place, Device)]
        works = any(task not in self._failed.get(place, {}) for place in devices)
        return works or alone or task.devices >= 2 * DEVICES

    def suspect(self, place: Place) -> bool:
        """Whether `place` has failed so many tasks in a row that it gets no new work for now."""
        # A task that ended without success elsewhere, such as for a wrong file, says nothing of the place.
        counted = (executed or not task.ended for task, executed in self._failed.get(place, {}).items())
        return sum(counted) >= IN_A_ROW

    def guilty(self, place: Place, *, alone: bool) -> bool:
        """Whether to replace a suspect: elsewhere, a task was executed that it failed, or there is no other place."""
        return self.suspect(place) and (alone or any(self._failed[place].values()))

    def suspected_devices(self) -> list[Device]:
        """The devices to judge: they failed several tasks in a row, or, over time, many that others executed."""
        often = [place for place in self._executed_elsewhere if self._errs(place)]
        in_a_row = [place for place in self._failed if self.suspect(place)]
        return [place for place in dict.fromkeys([*often, *in_a_row]) if isinstance(place, Device)]

    def broken(self, device: Device, *, alone: bool) -> bool:
        """Whether a device is to blame for its failures. `alone`: no other device works, so far as is known."""
        return (self._errs(device) and not alone) or self.guilty(device, alone=alone)

    def _errs(self, place: Place) -> bool:
        return self._executed_elsewhere[place] >= max(OFTEN, SHARE * self._executed[place])

    def condemned(self, device: Device) -> None:
        """Note that a device is not used any more; its failures do not count against tasks."""
        for task in self._failed.pop(device, {}):
            task.devices -= 1
            task.tried.discard(device)
        self._executed_elsewhere.pop(device, None)

    def forget(self, place: Place) -> None:
        """Clear the record of `place`: a new actor takes its place."""
        self._failed.pop(place, None)


def retry_slot(
    task: Task, slots: Sequence[ActorSlot], suspect: Callable[[ActorSlot], bool], *, elsewhere: bool
) -> ActorSlot | None:
    """The actor of `slots` to try a failed task on again; None where the task has to wait.

    `elsewhere`: one in a place that has not failed the task; otherwise, where there is no such place, an idle one.
    """
    others = [slot for slot in slots if task.tried.isdisjoint(slot.places)]
    if elsewhere:
        free = [slot for slot in others if len(slot.calls) < QUEUE]
    else:
        free = [] if others else [slot for slot in slots if not slot.calls]
    # All GPUs of a machine may fail together.
    machines = {place.node for place in task.tried if isinstance(place, Device)}
    near = {slot.id for slot in free if slot.device is not None and slot.device.node in machines}
    return min(free, key=lambda one: (suspect(one), one.id in near, not one.done, len(one.calls)), default=None)
