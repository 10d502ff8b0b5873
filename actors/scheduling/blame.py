"""Decides whether a failed call is the fault of its task or of its actor. Pure: no Ray, no clock.

A task that fails is tried on another actor. If it succeeds there, the first actor is to blame; if it fails on two
actors, the task is to blame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actors.scheduling.actor_slot import ActorSlot
from actors.scheduling.backlog import Task
from actors.scheduling.policy import QUEUE

IN_A_ROW = 3
"""Failures in a row after which an actor is suspect: it gets no new work until one of these tasks has succeeded."""


class Blame:
    """The tasks that each lineage (an actor and its replacements) has failed since its last success."""

    def __init__(self, attempts: int) -> None:
        """`attempts`: how often a task may fail, and how often its actor may die during it."""
        self._attempts = attempts
        self._failed: dict[int, dict[Task, bool]] = {}
        """By lineage: the tasks that it has failed, and whether another lineage has executed them."""

    def succeeded(self, task: Task, lineage: int) -> None:
        """Note a success on `lineage`; others that failed the task are to blame for that."""
        self._failed.pop(lineage, None)
        for other in task.tried:
            if task in self._failed.get(other, {}):
                self._failed[other][task] = True

    def failed(self, task: Task, lineage: int) -> None:
        """Note that a task failed on `lineage`, or that its actor died during it."""
        # If the lineage has succeeded between two failures of one task, the second failure is no evidence against it.
        if lineage not in task.tried:
            self._failed.setdefault(lineage, {})[task] = False
        task.tried.add(lineage)

    def convicted(self, task: Task, *, alone: bool) -> bool:
        """Whether the task is to blame: it used up its attempts, on two lineages unless there is only one (`alone`).

        If so, the lineages that it failed on are cleared of it.
        """
        if max(task.failures, task.losses) < self._attempts:
            return False
        if len(task.tried) < 2 and not alone and self._attempts > 1:
            return False
        for tasks in self._failed.values():
            tasks.pop(task, None)
        return True

    def suspect(self, lineage: int) -> bool:
        """Whether `lineage` has failed so many tasks in a row that it gets no new work for now."""
        return len(self._failed.get(lineage, ())) >= IN_A_ROW

    def guilty(self, lineage: int, *, alone: bool) -> bool:
        """Whether to replace a suspect: another lineage executed a task that it failed, or there is no other."""
        return self.suspect(lineage) and (alone or any(self._failed[lineage].values()))

    def forget(self, lineage: int) -> None:
        """Clear the record of `lineage`: a new actor takes its place."""
        self._failed.pop(lineage, None)


def retry_slot(
    task: Task, slots: Sequence[ActorSlot], suspect: Callable[[ActorSlot], bool], *, elsewhere: bool
) -> ActorSlot | None:
    """The actor of `slots` to try a failed task on again; None where the task has to wait.

    `elsewhere`: one of a lineage that has not failed the task; otherwise, where there is no such lineage, an idle one.
    """
    others = [slot for slot in slots if slot.lineage.number not in task.tried]
    if elsewhere:
        free = [slot for slot in others if len(slot.calls) < QUEUE]
    else:
        free = [] if others else [slot for slot in slots if not slot.calls]
    return min(free, key=lambda one: (suspect(one), not one.done, len(one.calls)), default=None)
