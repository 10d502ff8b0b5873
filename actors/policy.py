"""Pure decisions: how many actors, and which piece of work goes to which slot. No Ray, no clock."""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from study.errors import StudyError

Role = str
"""`worker`, or `service <name>`: a remote service has one actor, so that one clock paces its requests."""

WORKER: Role = "worker"

QUEUE = 2
"""Calls at most that an actor has in its queue, the running one included: the next is there when it ends one."""

_BEHIND = 4
"""Batches that may wait for each slot that holds their target, before another slot loads it too."""


@dataclass(frozen=True)
class Share:
    """What one actor reserves of a machine."""

    cpus: float
    gpus: float

    @property
    def device(self) -> str:
        return "cuda:0" if self.gpus else "cpu"


@dataclass(frozen=True)
class Crew:
    """How many workers, what each reserves, and the models whose services are asked."""

    workers: int
    share: Share
    services: tuple[str, ...] = ()

    @property
    def roles(self) -> list[Role]:
        """The role of every actor."""
        return [*[WORKER] * self.workers, *(service_role(name) for name in self.services)]

    def share_of(self, role: Role) -> Share:
        return self.share if role == WORKER else Share(0, 0)


def service_role(model: str) -> Role:
    """The role of the actor that asks the remote service behind `model`."""
    return f"service {model}"


def service_of(role: Role) -> str | None:
    """The model whose service an actor of `role` asks, if it asks any."""
    return role.removeprefix("service ") if role.startswith("service ") else None


def workers(cpus: float, gpus: float, *, threads: int) -> int:
    """How many workers a cluster has room for: one on each GPU, or on every `threads` cores where there are none."""
    return int(gpus) if gpus >= 1 else max(1, int(cpus) // threads)


def crew(cpus: float, gpus: float, *, threads: int, asked: int | None, services: Sequence[str] = ()) -> Crew:
    """The actors for a cluster with `cpus` and `gpus`; `asked` is the number of workers where the spec gives one.

    A worker crafts and predicts, so that no slot waits for the other kind of work. It takes a GPU where there are any,
    or a part of one where more workers are asked for than there are; else `threads` cores. Raises StudyError, with the
    numbers, where the workers asked for do not fit.
    """
    if gpus >= 1:
        count = asked or workers(cpus, gpus, threads=threads)
        together = math.ceil(count / int(gpus))
        return Crew(count, Share(cpus=0, gpus=math.floor(1e4 / together) / 1e4), tuple(services))
    count = asked or workers(cpus, gpus, threads=threads)
    if count * threads > cpus:
        raise StudyError(
            f"{count} actors with {threads} threads each need {count * threads} cores, and there are {cpus:g}",
            accepted=f"at most {int(cpus) // threads} actors with {threads} threads each here",
            todo="lower run.actors or numerics.threads, or give --address of a larger cluster",
        )
    return Crew(count, Share(threads, 0), tuple(services))


@dataclass(frozen=True)
class Group:
    """Work of one kind for the same models: `count` pieces of `cost` in all, in any unit that all groups share.

    `urgent` pieces hold memory until they are done: batches that wait for their targets.
    """

    key: Hashable
    role: Role
    models: frozenset[str]
    urgent: bool
    count: int
    cost: float


@dataclass(frozen=True)
class Slot:
    """An actor as the policy sees it; `holds` are its models, the least recently used first."""

    id: int
    role: Role
    holds: tuple[str, ...]
    queued: int
    capacity: int


@dataclass(frozen=True)
class Assignment:
    """Which group's next piece goes to which slot, and which models the slot lets go of first."""

    group: Hashable
    slot: int
    drop: tuple[str, ...]


def assign(
    groups: Iterable[Group],
    slots: Sequence[Slot],
    *,
    holders: Mapping[Hashable, int] | None = None,
    crew: Mapping[Role, int] | None = None,
) -> list[Assignment]:
    """What to start now on `slots`: those that have room in their queues.

    Slots with the shortest queue choose first. A slot serves waiting batches before it makes new ones: those of
    targets that it holds, then those that too many wait for. Else it goes on with the models that it holds, on the
    group that needs most; only a slot with nothing to do for its models loads others. A second call is
    queued only while there is more work than slots: at the end, a free slot is worth more than a full queue.

    `holders` are how many slots hold the models of each group, `crew` how many there are of each role: where there are
    others than `slots`.
    """
    chosen: list[Assignment] = []
    by_role: dict[Role, list[Group]] = {}
    for group in groups:
        if group.count:
            by_role.setdefault(group.role, []).append(group)
    for role, mine in by_role.items():
        free = [slot for slot in slots if slot.role == role and slot.queued < QUEUE]
        if holders is None:
            known = {group.key: _holding(group, slots) for group in mine}
        else:
            known = {group.key: holders[group.key] for group in mine}
        count = sum(slot.role == role for slot in slots) if crew is None else crew[role]
        chosen += _assign(mine, free, known, count)
    return chosen


def _holding(group: Group, slots: Iterable[Slot]) -> int:
    return sum(slot.role == group.role and group.models <= set(slot.holds) for slot in slots)


def _assign(groups: list[Group], free: list[Slot], holders: dict[Hashable, int], crew: int) -> list[Assignment]:
    left = {group.key: group for group in groups}
    by_id = {slot.id: slot for slot in free}
    queues = [(slot.queued, slot.id) for slot in free]
    heapq.heapify(queues)
    pieces = sum(group.count for group in groups)
    chosen: list[Assignment] = []
    while left and queues:
        queued, number = queues[0]
        if queued and pieces <= crew:
            break
        slot = by_id[number]
        group = _pick(slot, list(left.values()), holders)
        drop, holds = _hold(slot, sorted(group.models))
        chosen.append(Assignment(group.key, number, drop))
        if holds != slot.holds:
            for key, other in left.items():
                holders[key] += (other.models <= set(holds)) - (other.models <= set(slot.holds))
        by_id[number] = replace(slot, holds=holds, queued=queued + 1)
        if queued + 1 < QUEUE:
            heapq.heapreplace(queues, (queued + 1, number))
        else:
            heapq.heappop(queues)
        pieces -= 1
        if group.count == 1:
            del left[group.key]
        else:
            rest = group.cost * (group.count - 1) / group.count
            left[group.key] = replace(group, count=group.count - 1, cost=rest)
    return chosen


def _pick(slot: Slot, groups: Sequence[Group], holders: dict[Hashable, int]) -> Group:
    held = set(slot.holds)
    here = [group for group in groups if group.models <= held]
    urgent = [group for group in here if group.urgent] or [
        group for group in groups if group.urgent and group.count > _BEHIND * holders[group.key]
    ]
    if urgent:
        return max(urgent, key=lambda one: one.count)
    if here:
        return max(here, key=lambda one: one.cost / holders[one.key])
    return max(groups, key=lambda one: one.cost / (holders[one.key] + 1))


def _hold(slot: Slot, models: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Models to drop so that `models` fit, and what the slot holds then."""
    others = [name for name in slot.holds if name not in models]
    surplus = max(0, len(others) + len(models) - slot.capacity)
    return tuple(others[:surplus]), (*others[surplus:], *models)


def after(slot: Slot, models: Iterable[str]) -> tuple[str, ...]:
    """What `slot` holds once it was given work that needs `models`."""
    return _hold(slot, sorted(models))[1]


def drops(slot: Slot, models: Iterable[str]) -> tuple[str, ...]:
    """Which models `slot` lets go of for work that needs `models`."""
    return _hold(slot, sorted(models))[0]
