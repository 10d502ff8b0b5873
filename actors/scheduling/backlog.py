"""The tasks that wait for an actor, grouped by the models that they need: single tasks, and streams of tasks.

A stream is an iterator of tasks with a count and a cost, so a million tasks are never in memory at once.
"""

from __future__ import annotations

import functools
import heapq
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from actors.backends.interface import Device, Ref
from actors.resources.placement import WORKER, Role, service_role
from actors.scheduling.policy import Group

Method = Literal["craft", "predict", "probe"]
Key = tuple[Role, Method, frozenset[str]]
Place = int | Device
"""Where a task failed: the number of a lineage (an actor and its replacements), or the device that failed."""


@dataclass(eq=False)
class Task:
    """One call to an actor that holds certain models.

    Attributes:
        method: The method of the actor.
        models: By name of a model, the digest that the model must have; None if the digest is not known yet.
        job: The argument of the call.
        pixels: Returns the reference to the images. It is called when an actor gets the task, so that images are not
            read early.
        cost: Work in arbitrary units, comparable within one method.
        context: A value that the caller gets back with the result.
        service: Whether its only model is a remote service.
        title: The name of the task in displays; if it is empty, displays show the method and the models.
        failures: How often the call raised an error.
        losses: How often its actor died during the call.
        machines: How often the call was lost because its machine was lost or ran out of memory.
        devices: How often a device failed during the call.
        tried: The places where it failed.
        copies: Number of actors that execute it now.
        ended: Whether it has succeeded, or has failed for good.
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
    devices: int = 0
    tried: set[Place] = field(default_factory=set)
    copies: int = 0
    ended: bool = False

    @property
    def description(self) -> str:
        """The method and the models, for messages."""
        return f"{self.method} {' + '.join(self.models)}"

    @functools.cached_property
    def key(self) -> Key:
        role = service_role(next(iter(self.models))) if self.service else WORKER
        return role, self.method, frozenset(self.models)


def predict_key(targets: Collection[str], *, service: bool) -> Key:
    """The key of tasks that show images to `targets`."""
    return (service_role(next(iter(targets))) if service else WORKER), "predict", frozenset(targets)


@dataclass
class _Stream:
    """The rest of a stream: `count` tasks of one key, each of about the same cost."""

    tasks: Iterator[Task]
    count: int
    cost: float


@dataclass
class _Pile:
    """All tasks of one key, in a heap: first the tasks that other work waits for, then the longest tasks."""

    entries: list[tuple[bool, float, int, Task | _Stream]] = field(default_factory=list)
    count: int = 0
    cost: float = 0.0
    coming: float = 0.0

    @property
    def is_empty(self) -> bool:
        return self.count <= 0 and self.coming <= 0


class Backlog:
    """The tasks that wait for an actor."""

    def __init__(self) -> None:
        self._piles: dict[Key, _Pile] = {}
        self._numbers = itertools.count()

    def __bool__(self) -> bool:
        return any(pile.count > 0 for pile in self._piles.values())

    def expect(self, key: Key, cost: float) -> None:
        """Announce tasks of a key that will be added later. A negative `cost` withdraws an announcement."""
        pile = self._piles.setdefault(key, _Pile())
        pile.coming = max(0.0, pile.coming + cost)
        if pile.is_empty:
            del self._piles[key]

    def add(self, task: Task, *, first: bool = False) -> None:
        """Add one task. `first`: whether other work waits for it."""
        self._push(task.key, (not first, -task.cost, next(self._numbers), task), 1, task.cost)

    def add_stream(self, tasks: Iterator[Task], count: int, *, first: bool = False) -> None:
        """Add `count` tasks of one key. Each task is created when an actor gets it."""
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
        """The groups of tasks that the policy chooses from. If `crafts` is false, only groups of predictions."""
        return [
            Group(key, key[0], key[2], key[1] == "predict", pile.count, pile.cost, pile.coming)
            for key, pile in self._piles.items()
            if crafts or key[1] == "predict"
        ]

    def take(self, key: Key) -> Task | None:
        """Take the next task of a key. Returns None if the streams of this key had fewer tasks than announced."""
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
