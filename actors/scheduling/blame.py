"""Decides whether a failed call is the fault of its task, of its actor, or of its device. Pure: no Ray, no clock.

A failed task is tried in another place. If it succeeds there, the first place is to blame; if it fails there too, the
task is to blame. A place is a lineage (an actor and its replacements), or, if a device failed, the device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence

from actors.backends.interface import Device
from actors.scheduling.actor_slot import ActorSlot
from actors.scheduling.backlog import Place, Task
from actors.scheduling.policy import QUEUE

IN_A_ROW = 3
"""A place where this many tasks have failed in a row is suspect: it gets no new work until one of these tasks has
succeeded, in this place or in another."""

OFTEN, SHARE = 5, 0.02
"""A device is to blame if at least `OFTEN` tasks failed on it and succeeded elsewhere, and if these tasks are at least
the share `SHARE` of the tasks that succeeded on the device. Successes in between do not reset these counts."""

DEVICES = 3
"""A task is to blame if devices failed during it this many times and one of these devices has executed other tasks
since. If none has, the task is to blame after twice as many failures. They do not count as attempts of the task."""


class Blame:
    """Records the tasks that failed in each place since its last success."""

    def __init__(self, attempts: int) -> None:
        """`attempts`: how often a task may fail, and how often its actor may die during it."""
        self._attempts = attempts
        self._failed: dict[Place, dict[Task, bool]] = {}
        """By place: the tasks that failed there, and whether another place has executed each of them."""
        self._executed: Counter[Place] = Counter()
        self._executed_elsewhere: Counter[Place] = Counter()

    def succeeded(self, task: Task, places: Collection[Place]) -> None:
        """Record that a task succeeded in `places`: the device and the lineage of its actor.

        A lineage is an actor with those that replaced it. If the task failed in other places before, these failures now
        count against those places.
        """
        for place in places:
            self._failed.pop(place, None)
            self._executed[place] += 1
        for other in task.tried.difference(places):
            self._executed_elsewhere[other] += 1
            if task in self._failed.get(other, {}):
                self._failed[other][task] = True

    def failed(self, task: Task, place: Place) -> None:
        """Record that a task failed in `place`, or that the actor there died during the task."""
        # If the task has failed here before, another failure of it says nothing more about the place.
        if place not in task.tried:
            self._failed.setdefault(place, {})[task] = False
        task.tried.add(place)

    def convicted(self, task: Task, *, alone: bool) -> bool:
        """Whether the task is to blame: it has used up its attempts and failed in two places, or it breaks devices.

        `alone`: whether there is only one place; the task then need not fail in a second one. If the task is to blame,
        its failures no longer count against any place.
        """
        often = max(task.failures, task.losses) >= self._attempts
        in_two = len(task.tried) >= 2 or alone or self._attempts == 1
        if not (often and in_two) and not self._breaks_devices(task, alone=alone):
            return False
        for tasks in self._failed.values():
            tasks.pop(task, None)
        return True

    def _breaks_devices(self, task: Task, *, alone: bool) -> bool:
        """Whether devices fail because of the task. The evidence is a device that has executed other tasks since."""
        if task.devices < DEVICES:
            return False
        devices = [place for place in task.tried if isinstance(place, Device)]
        works = any(task not in self._failed.get(place, {}) for place in devices)
        return works or alone or task.devices >= 2 * DEVICES

    def suspect(self, place: Place) -> bool:
        """Whether `IN_A_ROW` tasks have failed in `place` since its last success. A suspect place gets no new work."""
        # A task that ended without success elsewhere, for example because of a wrong file, does not count.
        counted = (executed or not task.ended for task, executed in self._failed.get(place, {}).items())
        return sum(counted) >= IN_A_ROW

    def guilty(self, place: Place, *, alone: bool) -> bool:
        """Whether a suspect is to blame: another place executed a task that failed here, or there is no other place."""
        return self.suspect(place) and (alone or any(self._failed[place].values()))

    def suspected_devices(self) -> list[Device]:
        """The devices on which several tasks failed in a row, or over time many tasks that succeeded elsewhere.

        `broken` decides whether such a device is to blame.
        """
        often = [place for place in self._executed_elsewhere if self._errs(place)]
        in_a_row = [place for place in self._failed if self.suspect(place)]
        return [place for place in dict.fromkeys([*often, *in_a_row]) if isinstance(place, Device)]

    def broken(self, device: Device, *, alone: bool) -> bool:
        """Whether a device is to blame for its failures. `alone`: whether no other device is known to work."""
        return (self._errs(device) and not alone) or self.guilty(device, alone=alone)

    def _errs(self, place: Place) -> bool:
        return self._executed_elsewhere[place] >= max(OFTEN, SHARE * self._executed[place])

    def condemned(self, device: Device) -> None:
        """Record that a device is no longer used. Its failures stop counting against tasks."""
        for task in self._failed.pop(device, {}):
            task.devices -= 1
            task.tried.discard(device)
        self._executed_elsewhere.pop(device, None)

    def forget(self, place: Place) -> None:
        """Clear the record of `place`, because a new actor starts there."""
        self._failed.pop(place, None)


def retry_slot(
    task: Task, slots: Sequence[ActorSlot], suspect: Callable[[ActorSlot], bool], *, elsewhere: bool
) -> ActorSlot | None:
    """Choose the actor of `slots` that tries a failed task again; None if the task has to wait.

    With `elsewhere`, choose among the actors in places where the task has not failed. Without `elsewhere`, choose an
    idle actor, and only if there is no such place.
    """
    others = [slot for slot in slots if task.tried.isdisjoint(slot.places)]
    if elsewhere:
        free = [slot for slot in others if len(slot.calls) < QUEUE]
    else:
        free = [] if others else [slot for slot in slots if not slot.calls]
    # Prefer other machines, because all GPUs of a machine may fail together.
    machines = {place.node for place in task.tried if isinstance(place, Device)}
    near = {slot.id for slot in free if slot.device is not None and slot.device.node in machines}
    return min(free, key=lambda one: (suspect(one), one.id in near, not one.done, len(one.calls)), default=None)
