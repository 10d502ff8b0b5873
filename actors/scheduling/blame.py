"""Which is to blame for a call that failed: its task, or the actor that it ran on. Pure: no Ray, no clock.

A task that fails is tried on another actor. If it succeeds there, the first actor is charged with the failure; if it
fails on two, the task is to blame, and no actor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actors.scheduling.backlog import Task
from actors.scheduling.policy import QUEUE
from actors.scheduling.slot import ActorSlot

IN_A_ROW = 3
"""Tasks that an actor fails in a row before it is suspected: it gets no new work until one of them has a verdict."""


class Blame:
    """What actors have failed since they last succeeded. An actor and those in its place after it are one line."""

    def __init__(self, attempts: int) -> None:
        """`attempts` are the times that a task may fail, or take its actor with it."""
        self._attempts = attempts
        self._failed: dict[int, dict[Task, bool]] = {}

    def succeeded(self, task: Task, line: int) -> None:
        """A task succeeded on an actor of `line`: other actors that it failed on are charged with that."""
        self._failed.pop(line, None)
        for other in task.tried:
            if task in self._failed.get(other, {}):
                self._failed[other][task] = True

    def failed(self, task: Task, line: int) -> None:
        """A task failed on an actor of `line`, or took it with it."""
        # Where the line has succeeded between two failures of one task, the second says nothing against the line.
        if line not in task.tried:
            self._failed.setdefault(line, {})[task] = False
        task.tried.add(line)

    def convicted(self, task: Task, *, alone: bool) -> bool:
        """Whether a task is to be set aside: it failed as often as it may, on two actors unless there is one `alone`.

        The actors that it failed on are then cleared of it.
        """
        if max(task.failures, task.losses) < self._attempts:
            return False
        if len(task.tried) < 2 and not alone and self._attempts > 1:
            return False
        for tasks in self._failed.values():
            tasks.pop(task, None)
        return True

    def suspect(self, line: int) -> bool:
        """Whether actors of `line` have failed so many tasks in a row that they get no new work for now."""
        return len(self._failed.get(line, ())) >= IN_A_ROW

    def guilty(self, line: int, *, alone: bool) -> bool:
        """Whether a suspect is to be replaced: another actor carried out what it had failed, or there is no other."""
        return self.suspect(line) and (alone or any(self._failed[line].values()))

    def forget(self, line: int) -> None:
        """Another actor begins in its place, with nothing held against it."""
        self._failed.pop(line, None)


def another(
    task: Task, slots: Sequence[ActorSlot], suspect: Callable[[ActorSlot], bool], *, elsewhere: bool
) -> ActorSlot | None:
    """Which of `slots` a task is tried on that has failed: with `elsewhere` one of a line that it has not failed on,
    without it one that has nothing to do, where there is no such line. None where it has to wait."""
    others = [slot for slot in slots if slot.line.number not in task.tried]
    if elsewhere:
        free = [slot for slot in others if len(slot.calls) < QUEUE]
    else:
        free = [] if others else [slot for slot in slots if not slot.calls]
    return min(free, key=lambda one: (suspect(one), not one.done, len(one.calls)), default=None)
