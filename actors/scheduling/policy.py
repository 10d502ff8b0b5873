"""Pure decisions: which piece of work goes to which slot, and which models that loads and lets go. No Ray, no clock."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from actors.resources.placement import MachineRoom, Role

QUEUE = 2
"""Calls at most that an actor has in its queue, the running one included: the next is there when it ends one."""

_BEHIND = 4
"""Batches that may wait for each slot that holds their target, before another slot loads it too."""

_AMPLE = 1.2
"""Times its share of the slots that may hold a target: what waited while they loaded it is to be caught up with."""

_WAVE = 4
"""Times what loading and a piece take that waiting batches may need, where their targets have their share of slots."""


@dataclass(frozen=True)
class Group:
    """Work of one kind for the same models: `count` pieces of `cost` in all, in seconds as far as they are known.

    `urgent` pieces hold memory until they are done: batches that wait for their targets. `coming` is the cost of those
    that there will be, once what they wait for is done.
    """

    key: Hashable
    role: Role
    models: frozenset[str]
    urgent: bool
    count: int
    cost: float
    coming: float = 0.0


@dataclass(frozen=True)
class Slot:
    """An actor as the policy sees it; `holds` are its models, the least recently used first."""

    id: int
    role: Role
    holds: tuple[str, ...]
    queued: int
    room: MachineRoom


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
    loads: Mapping[str, float] | None = None,
) -> list[Assignment]:
    """What to start now on `slots`: those that have room in their queues.

    Slots with the shortest queue choose first. A slot serves waiting batches before it makes new ones: those of
    targets that it holds, then those that too many wait for. Else it goes on with the models that it holds, on the
    group that needs most; only a slot with nothing to do for its models loads others, and only where it would have
    loaded them and done a piece before those that hold them are through. A second call is queued only while there is
    more work than slots: at the end, a free slot is worth more than a full queue.

    `holders` are how many slots hold the models of each group, `crew` how many there are of each role: where there are
    others than `slots`. `loads` are the seconds that loading a model takes, 0 where that is not known.
    """
    chosen: list[Assignment] = []
    by_role: dict[Role, list[Group]] = {}
    for group in groups:
        by_role.setdefault(group.role, []).append(group)
    for role, mine in by_role.items():
        free = [slot for slot in slots if slot.role == role and slot.queued < QUEUE]
        if holders is None:
            known = {group.key: _holding(group, slots) for group in mine}
        else:
            known = {group.key: holders[group.key] for group in mine}
        count = sum(slot.role == role for slot in slots) if crew is None else crew[role]
        total = sum(group.cost + group.coming for group in mine)
        there = [group for group in mine if group.count]
        chosen += _assign(there, free, _Known(known, loads or {}, count / total if total else 0.0), count)
    return chosen


@dataclass(frozen=True)
class _Known:
    """How many slots hold the models of each group, how long a model takes to load, slots for each second of work."""

    holders: dict[Hashable, int]
    loads: Mapping[str, float]
    slots: float

    def need(self, group: Group, joining: int = 0) -> float:
        """Seconds until the work of a group would be done, its last piece included, if so many more slots joined."""
        return (group.cost + group.cost / group.count) / max(1, self.holders[group.key] + joining)

    def worth(self, group: Group, slot: Slot) -> bool:
        """Whether a slot that joins would be of use before the work is done without it."""
        holders = self.holders[group.key]
        loading = sum(self.loads.get(name, 0.0) for name in group.models if name not in slot.holds)
        if not holders or not loading:
            return True
        patience = loading + group.cost / group.count
        if group.urgent and holders >= _AMPLE * self.slots * (group.cost + group.coming):
            # It has its share of the slots: what waits is a wave, which those will see off.
            return group.cost / holders > _WAVE * patience
        return (group.cost + group.coming) / holders > patience


def _holding(group: Group, slots: Iterable[Slot]) -> int:
    return sum(slot.role == group.role and group.models <= set(slot.holds) for slot in slots)


def _assign(groups: list[Group], free: list[Slot], known: _Known, crew: int) -> list[Assignment]:
    left = {group.key: group for group in groups}
    by_id = {slot.id: slot for slot in free}
    queues = [(slot.queued, slot.id) for slot in free]
    heapq.heapify(queues)
    pieces = sum(group.count for group in groups)
    chosen: list[Assignment] = []
    seconds, longest = sum(group.cost for group in groups), max((one.cost / one.count for one in groups), default=0)
    while left and queues:
        queued, number = queues[0]
        if queued and (pieces <= crew or seconds < longest * crew):
            break
        slot = by_id[number]
        group = _pick(slot, list(left.values()), known)
        if group is None:
            heapq.heappop(queues)
            continue
        drop, holds = _hold(slot, sorted(group.models))
        chosen.append(Assignment(group.key, number, drop))
        if holds != slot.holds:
            for key, other in left.items():
                known.holders[key] += (other.models <= set(holds)) - (other.models <= set(slot.holds))
        by_id[number] = replace(slot, holds=holds, queued=queued + 1)
        if queued + 1 < QUEUE:
            heapq.heapreplace(queues, (queued + 1, number))
        else:
            heapq.heappop(queues)
        pieces -= 1
        seconds -= group.cost / group.count
        if group.count == 1:
            del left[group.key]
        else:
            rest = group.cost * (group.count - 1) / group.count
            left[group.key] = replace(group, count=group.count - 1, cost=rest)
    return chosen


def _pick(slot: Slot, groups: Sequence[Group], known: _Known) -> Group | None:
    held = set(slot.holds)
    here = [group for group in groups if group.models <= held]
    urgent = [group for group in here if group.urgent] or [
        group
        for group in groups
        if group.urgent and group.count > _BEHIND * known.holders[group.key] and known.worth(group, slot)
    ]
    if urgent:
        return max(urgent, key=lambda one: one.count)
    if here:
        return max(here, key=known.need)
    useful = [group for group in groups if known.worth(group, slot)]
    return max(useful, key=lambda one: known.need(one, 1), default=None)


def _hold(slot: Slot, models: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Models to drop so that `models` fit, and what the slot holds then."""
    others = [name for name in slot.holds if name not in models]
    kept = list(others)
    while kept and slot.room.of((*kept, *models)) > slot.room.most:
        kept.pop(0)
    return tuple(others[: len(others) - len(kept)]), (*kept, *models)


def after(slot: Slot, models: Iterable[str]) -> tuple[str, ...]:
    """What `slot` holds once it was given work that needs `models`."""
    return _hold(slot, sorted(models))[1]


def drops(slot: Slot, models: Iterable[str]) -> tuple[str, ...]:
    """Which models `slot` lets go of for work that needs `models`."""
    return _hold(slot, sorted(models))[0]
