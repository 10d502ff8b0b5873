"""Decides whether a task, an actor or a device is to blame for failed calls.

A place is a lineage (an actor and its replacements), or, if a device failed, the device. A failed task is tried again
in another place, if there is one. If the task succeeds there, this counts against the first place. If the task fails
there too, this counts against the task. The decisions depend only on recorded failures and successes. This module uses
neither Ray nor a clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence

from actors.backends.interface import Device
from actors.scheduling.actor_slot import ActorSlot
from actors.scheduling.backlog import Place, Task
from actors.scheduling.policy import QUEUE

IN_A_ROW = 3
"""Number of tasks that must fail in a row in a place to make it suspect. A suspect place gets no new work until retries
show whether the place or the tasks are to blame."""

OFTEN, SHARE = 5, 0.02
"""A device is to blame if at least `OFTEN` tasks failed on it and then succeeded in another place. The number of these
tasks must also be at least `SHARE` times the number of tasks that succeeded on the device. Successes on the device do
not reset these numbers."""

DEVICES = 3
"""Number of times that devices must fail during a task before the task can be to blame. The task is to blame if one of
these devices has executed other tasks since, or if no other device is known to work. Otherwise the task is to blame
after twice this number of failures. Failures of devices do not count as attempts of the task."""


class Blame:
    """Records the tasks that have failed in each place since the last success there, and decides what is to blame."""

    def __init__(self, attempts: int) -> None:
        """`attempts`: number of attempts at a task. Errors, and deaths of actors during the task, count separately."""
        self._attempts = attempts
        self._failed: dict[Place, dict[Task, bool]] = {}
        """The tasks that failed in each place. The value of a task says whether another place has executed it since."""
        self._condemned: set[Device] = set()
        self._executed: Counter[Place] = Counter()
        self._executed_elsewhere: Counter[Place] = Counter()

    def succeeded(self, task: Task, places: Collection[Place]) -> None:
        """Record that a task succeeded in `places`: the lineage and the device of its actor.

        A lineage is an actor and its replacements. If the task failed in other places before, these failures now count
        against the other places.
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
        # A second failure of the same task in this place says nothing new about the place.
        if place not in task.tried:
            self._failed.setdefault(place, {})[task] = False
        task.tried.add(place)

    def convicted(self, task: Task, *, alone: bool) -> bool:
        """Return whether the task is to blame for its failures.

        A task is to blame if it has used up its attempts and has failed in two places. It is also to blame if devices
        fail because of it. If the task is to blame, its failures no longer count against any place.

        `alone`: whether there is only one place. Failures in this place are then enough. They are also enough if a task
        has only one attempt.
        """
        often = max(task.failures, task.losses) >= self._attempts
        in_two = len(task.tried) >= 2 or alone or self._attempts == 1
        if not (often and in_two) and not self._breaks_devices(task, alone=alone):
            return False
        for tasks in self._failed.values():
            tasks.pop(task, None)
        return True

    def _breaks_devices(self, task: Task, *, alone: bool) -> bool:
        """Return whether devices fail because of the task.

        The evidence is that one of the failed devices has executed other tasks since. Without this evidence, twice as
        many failures are needed, except if no other device is known to work (`alone`).
        """
        times = sum(count for device, count in task.devices.items() if device not in self._condemned)
        if times < DEVICES:
            return False
        devices = [place for place in task.tried if isinstance(place, Device)]
        works = any(task not in self._failed.get(place, {}) for place in devices)
        return works or alone or times >= 2 * DEVICES

    def suspect(self, place: Place) -> bool:
        """Return whether `IN_A_ROW` tasks have failed in `place` since the last success there.

        Such a place gets no new work.
        """
        failed = self._failed.get(place)
        if not failed:
            return False
        # A task that failed for good, for example because of a wrong file, says nothing about the place.
        return sum(executed or not task.ended for task, executed in failed.items()) >= IN_A_ROW

    def guilty(self, place: Place, *, alone: bool) -> bool:
        """Return whether `place` is to blame: it is suspect, and another place has executed a task that failed there.

        `alone`: whether there is no other place. A suspect place is then to blame in any case.
        """
        return self.suspect(place) and (alone or any(self._failed[place].values()))

    def suspected_devices(self) -> list[Device]:
        """Return the devices that may be to blame. `broken` then decides for each of them.

        On such a device, `IN_A_ROW` tasks failed in a row, or over time many tasks failed that succeeded in other
        places.
        """
        often = [place for place in self._executed_elsewhere if self._errs(place)]
        in_a_row = [place for place in self._failed if self.suspect(place)]
        return [place for place in dict.fromkeys([*often, *in_a_row]) if isinstance(place, Device)]

    def broken(self, device: Device, *, alone: bool) -> bool:
        """Return whether a device is to blame for its failures. `alone`: whether no other device is known to work."""
        return (self._errs(device) and not alone) or self.guilty(device, alone=alone)

    def _errs(self, place: Place) -> bool:
        return self._executed_elsewhere[place] >= max(OFTEN, SHARE * self._executed[place])

    def condemned(self, device: Device) -> None:
        """Record that a device is no longer used. Failures on this device no longer count against tasks."""
        self._condemned.add(device)
        for task in self._failed.pop(device, {}):
            task.tried.discard(device)
        self._executed_elsewhere.pop(device, None)

    def forget(self, place: Place) -> None:
        """Delete the failures recorded for `place`, because its actor no longer exists."""
        self._failed.pop(place, None)


def retry_slot(
    task: Task, slots: Sequence[ActorSlot], suspect: Callable[[ActorSlot], bool], *, elsewhere: bool
) -> ActorSlot | None:
    """Return the actor of `slots` that tries a failed task again, or None if the task has to wait.

    If `elsewhere` is True, the candidates are the actors in places where the task has not failed, except actors with
    `QUEUE` calls. If `elsewhere` is False, the candidates are the idle actors; but there are none if some actor, idle
    or not, is in a place where the task has not failed. `suspect` returns whether an actor is suspect. Suspect actors
    are chosen last.
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
