"""Work that could be given out, by the models that it needs: single tasks, and whole crafts as streams of tasks.

A plan of a million units is never held: of each craft there is an iterator, a count and a cost.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from actors.backends.interface import Ref
from actors.resources.placement import WORKER, Role, service_role
from actors.scheduling.policy import Group

Method = Literal["craft", "predict", "probe"]
Key = tuple[Role, Method, frozenset[str]]


@dataclass(eq=False)
class Task:
    """One call to be made on some actor that holds `models` (by name, with the digests that they must have)."""

    method: Method
    models: Mapping[str, str | None]
    job: Any
    pixels: Callable[[], Ref]
    """Asked when the task is given out, so that clean images are read no sooner than they are needed."""
    cost: float
    about: Any
    """Whatever the caller wants to find again when the task is done."""
    service: bool = False
    """Whether its one model is a remote service."""
    failures: int = 0
    losses: int = 0
    machines: int = 0
    """How often it was lost with the machine it ran on, or for want of memory there."""
    tried: set[int] = field(default_factory=set)
    """The lines of actors that it failed on."""
    copies: int = 0
    """How many actors are at it."""
    ended: bool = False

    @property
    def called(self) -> str:
        """What it does, for people."""
        return f"{self.method} {' + '.join(self.models)}"

    @property
    def key(self) -> Key:
        role = service_role(next(iter(self.models))) if self.service else WORKER
        return role, self.method, frozenset(self.models)


def predict_key(targets: Collection[str], *, service: bool) -> Key:
    """The key of tasks that show batches to `targets`."""
    return (service_role(next(iter(targets))) if service else WORKER), "predict", frozenset(targets)


@dataclass
class _Feed:
    """The rest of a stream of tasks of one key, `count` of them, each of about the same cost."""

    tasks: Iterator[Task]
    count: int
    cost: float


@dataclass
class _Pile:
    """All work of one key; a heap, with what others wait for first, then the longest."""

    entries: list[tuple[bool, float, int, Task | _Feed]] = field(default_factory=list)
    count: int = 0
    cost: float = 0.0
    coming: float = 0.0

    @property
    def over(self) -> bool:
        return self.count <= 0 and self.coming <= 0


class Backlog:
    """Work that waits to be given out."""

    def __init__(self) -> None:
        self._piles: dict[Key, _Pile] = {}
        self._numbers = itertools.count()

    def __bool__(self) -> bool:
        return any(pile.count > 0 for pile in self._piles.values())

    def expect(self, key: Key, cost: float) -> None:
        """Tasks of a key will come, or (negative) will not come after all; in cost."""
        pile = self._piles.setdefault(key, _Pile())
        pile.coming = max(0.0, pile.coming + cost)
        if pile.over:
            del self._piles[key]

    def add(self, task: Task, *, first: bool = False) -> None:
        """One task; `first` where other work waits for it."""
        self._push(task.key, (not first, -task.cost, next(self._numbers), task), 1, task.cost)

    def feed(self, tasks: Iterator[Task], count: int, *, first: bool = False) -> None:
        """A stream of `count` tasks for the same models, none of which is made before it is given out."""
        head = next(tasks, None)
        if head is None:
            return
        stream = _Feed(itertools.chain([head], tasks), count, head.cost)
        self._push(head.key, (not first, -head.cost, next(self._numbers), stream), count, head.cost * count)

    def _push(self, key: Key, entry: tuple[bool, float, int, Task | _Feed], count: int, cost: float) -> None:
        pile = self._piles.setdefault(key, _Pile())
        heapq.heappush(pile.entries, entry)
        pile.count += count
        pile.cost += cost

    def groups(self, *, crafts: bool) -> list[Group]:
        """What there is for the policy to choose from; without `crafts`, batches that wait for targets alone."""
        return [
            Group(key, key[0], key[2], key[1] == "predict", pile.count, pile.cost, pile.coming)
            for key, pile in self._piles.items()
            if crafts or key[1] == "predict"
        ]

    def take(self, key: Key) -> Task | None:
        """The next task of a group; None where its streams had fewer than they said."""
        pile = self._piles[key]
        while pile.entries:
            entry = pile.entries[0][3]
            if isinstance(entry, Task):
                heapq.heappop(pile.entries)
                return self._taken(key, entry)
            task = next(entry.tasks, None)
            if task is not None:
                entry.count -= 1
                return self._taken(key, task, entry.cost)
            heapq.heappop(pile.entries)
            pile.count -= entry.count
        self._drop(pile, key)
        return None

    def _taken(self, key: Key, task: Task, cost: float | None = None) -> Task:
        pile = self._piles[key]
        pile.count -= 1
        pile.cost -= task.cost if cost is None else cost
        if pile.count <= 0:
            self._drop(pile, key)
        return task

    def _drop(self, pile: _Pile, key: Key) -> None:
        pile.count, pile.cost = 0, 0.0
        if pile.over:
            del self._piles[key]
