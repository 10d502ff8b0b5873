"""The tasks that wait for an actor, in groups that need the same models.

A group holds single tasks and streams. A stream is an iterator that creates its tasks one by one, so that a million
tasks are never in memory at once. The number and the cost of its tasks are known in advance.
"""

from __future__ import annotations

import functools
import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from actors.backends.interface import Device, Ref
from actors.resources.placement import WORKER, Role, service_role
from actors.scheduling.policy import Group

Method = Literal["craft", "predict", "probe"]
Key = tuple[Role, Method, frozenset[str]]
Place = int | Device
"""A place where a task can fail: the number of a lineage (an actor and its replacements), or a device."""


@dataclass(eq=False)
class Task:
    """One call to an actor, which must hold certain models.

    Attributes:
        method: The method of the actor.
        models: The digest that each model must have, by name of the model. A digest is None if it is not known yet.
        job: The argument of the call.
        pixels: A function that returns the reference to the images. The scheduler calls this function only when an
            actor gets the task, so that images are not read too early.
        cost: The amount of work, in arbitrary units. Costs are comparable only between tasks with the same method.
        context: A value that the caller gets back together with the result.
        service: Whether the task calls a remote service, which is then its only model.
        title: The name of the task in displays. If it is empty, displays show the method and the models.
        failures: How often the call raised an error.
        losses: How often the actor died during the call, for a reason other than those of `machines`.
        machines: How often the actor died during the call because its machine was lost or ran out of memory.
        devices: How often each device failed during the call.
        tried: The places where the task failed.
        short: Whether the task takes so little time that it may start together with other tasks of its actor.
        alone: Whether the task may not start together with others, because several calls that started together failed,
            or their actor died, and this task was one of them.
        copies: Number of calls of this task that run or wait at an actor now.
        ended: Whether the task has succeeded, or has failed for good.
    """

    method: Method
    models: Mapping[str, str | None]
    job: Any
    pixels: Callable[[], Ref]
    cost: float
    context: Any
    service: bool = False
    title: str = ""
    failures: int = 0
    losses: int = 0
    machines: int = 0
    devices: Counter[Device] = field(default_factory=Counter)
    tried: set[Place] = field(default_factory=set)
    short: bool = False
    alone: bool = False
    copies: int = 0
    ended: bool = False

    @property
    def description(self) -> str:
        """The method and the names of the models, as text for messages."""
        return f"{self.method} {' + '.join(self.models)}"

    @functools.cached_property
    def key(self) -> Key:
        role = service_role(next(iter(self.models))) if self.service else WORKER
        return role, self.method, frozenset(self.models)


def predict_key(targets: Collection[str], *, service: bool) -> Key:
    """Return the key of tasks that show images to `targets`. `service`: whether the only target is a remote service."""
    return (service_role(next(iter(targets))) if service else WORKER), "predict", frozenset(targets)


@dataclass
class _Stream:
    """The part of a stream that no actor has taken yet: `count` tasks of one key, each with a cost of about `cost`."""

    tasks: Iterator[Task]
    count: int
    cost: float


@dataclass
class _Pile:
    """All waiting tasks of one key, in a heap.

    Tasks that other work waits for come first. After them, tasks with a higher cost come first.

    Attributes:
        entries: The heap. An entry has a boolean that is False if other work waits for it, the negative cost, a
            running number, and the task or stream.
        count: Number of waiting tasks.
        cost: Cost of all waiting tasks together.
        coming: Cost of tasks that were announced, and will be added later.
    """

    entries: list[tuple[bool, float, int, Task | _Stream]] = field(default_factory=list)
    count: int = 0
    cost: float = 0.0
    coming: float = 0.0

    @property
    def is_empty(self) -> bool:
        return self.count <= 0 and self.coming <= 0

    @property
    def largest(self) -> float:
        """Cost of the next task; 0 if no task waits."""
        return -self.entries[0][1] if self.entries else 0.0


class Backlog:
    """The tasks that wait for an actor."""

    def __init__(self) -> None:
        self._piles: dict[Key, _Pile] = {}
        self._numbers = itertools.count()

    def __bool__(self) -> bool:
        return any(pile.count > 0 for pile in self._piles.values())

    def expect(self, key: Key, cost: float) -> None:
        """Announce that tasks of a key will be added later.

        `cost`: the cost of these tasks together. A negative cost withdraws an earlier announcement.
        """
        pile = self._piles.setdefault(key, _Pile())
        pile.coming = max(0.0, pile.coming + cost)
        if pile.is_empty:
            del self._piles[key]

    def add(self, task: Task, *, first: bool = False) -> None:
        """Add one task. `first`: whether other work waits for this task."""
        self._push(task.key, (not first, -task.cost, next(self._numbers), task), 1, task.cost)

    def add_stream(self, tasks: Iterator[Task], count: int, *, first: bool = False) -> None:
        """Add `count` tasks of one key. Each task, except the first, is created when an actor takes it.

        `first`: whether other work waits for these tasks.
        """
        head = next(tasks, None)
        if head is None:
            return
        stream = _Stream(itertools.chain([head], tasks), count, head.cost)
        self._push(head.key, (not first, -head.cost, next(self._numbers), stream), count, head.cost * count)

    def _push(self, key: Key, entry: tuple[bool, float, int, Task | _Stream], count: int, cost: float) -> None:
        pile = self._piles.setdefault(key, _Pile())
        heapq.heappush(pile.entries, entry)
        pile.count += count
        pile.cost += cost

    def groups(self, *, crafts: bool) -> list[Group]:
        """Return the groups of tasks that the policy chooses from.

        If `crafts` is False, these are only groups of predictions. Groups of attacks and probes are then left out.
        """
        return [
            Group(key, key[0], key[2], key[1] == "predict", pile.count, pile.cost, pile.coming, pile.largest)
            for key, pile in self._piles.items()
            if crafts or key[1] == "predict"
        ]

    def take(self, key: Key) -> Task | None:
        """Remove the next task of a key from the backlog, and return it.

        Returns None if no task is left, because a stream had fewer tasks than its announced count.
        """
        pile = self._piles[key]
        while pile.entries:
            entry = pile.entries[0][3]
            if isinstance(entry, Task):
                heapq.heappop(pile.entries)
                return self._taken(key, entry, entry.cost)
            task = next(entry.tasks, None)
            if task is not None:
                entry.count -= 1
                return self._taken(key, task, entry.cost)
            heapq.heappop(pile.entries)
            pile.count -= entry.count
        self._clear(pile, key)
        return None

    def _taken(self, key: Key, task: Task, cost: float) -> Task:
        pile = self._piles[key]
        pile.count -= 1
        pile.cost -= cost
        if pile.count <= 0:
            self._clear(pile, key)
        return task

    def _clear(self, pile: _Pile, key: Key) -> None:
        pile.count, pile.cost = 0, 0.0
        if pile.is_empty:
            del self._piles[key]
