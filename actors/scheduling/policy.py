"""The scheduling policy: assigns tasks to actors, and decides which models they drop. Pure: no Ray, no clock."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from actors.resources.placement import ModelCapacity, Role

QUEUE = 2
"""Most calls that an actor may have: one that runs, and one that waits and can start without delay."""

_WAITING_PER_HOLDER = 4
"""If more batches than this wait for each actor that holds their target, another actor loads the target too."""

_HOLDER_EXCESS = 1.2
"""A target may be held by this many times its share of the actors, so that its batches do not pile up."""

_WAVE = 4
"""Once a target has its share of actors, another actor loads it only if the waiting batches would take this many times
as long as loading the target and executing one task."""


class Group(NamedTuple):
    """Waiting tasks of one method for the same models.

    Attributes:
        key: The key of the tasks.
        role: The role of the actors that can execute them.
        models: The models that they need.
        urgent: Whether the tasks hold memory until they are done, as batches that wait for their targets do.
        count: Number of tasks.
        cost: Cost of all tasks together, in seconds if known.
        coming: Cost of announced tasks, which will be added later.
    """

    key: Hashable
    role: Role
    models: frozenset[str]
    urgent: bool
    count: int  # type: ignore[assignment]  # a tuple has a method of this name
    cost: float
    coming: float = 0.0


class SlotView(NamedTuple):
    """An actor as the policy sees it.

    Attributes:
        id: Its number.
        role: Its role.
        holds: The models that it holds, the least recently used first.
        queued: Number of its calls, the running call included.
        capacity: How many models it may hold.
    """

    id: int
    role: Role
    holds: tuple[str, ...]
    queued: int
    capacity: ModelCapacity


class Assignment(NamedTuple):
    """Assigns the next task of `group` to `slot`, which first drops the models `drop`."""

    group: Hashable
    slot: int
    drop: tuple[str, ...]


def assign(
    groups: Iterable[Group],
    slots: Sequence[SlotView],
    *,
    holders: Mapping[Hashable, int] | None = None,
    actor_counts: Mapping[Role, int] | None = None,
    loads: Mapping[str, float] | None = None,
) -> list[Assignment]:
    """Choose the calls to start now on `slots`, the actors whose queues are not full.

    Actors with the shortest queue choose first. An actor predicts waiting batches before it crafts: first batches for
    targets that it holds, then batches for targets with too many waiting batches. Otherwise it continues with the
    models that it holds, on the group with the most work per holder. An actor loads other models only if there is no
    work for its models, and only if it would load them and finish a task before the present holders are done. A second
    call is queued for an actor only while there is more work than actors. At the end of the work, a queued call would
    only wait, while an idle actor could start it at once.

    `holders`: number of actors that hold the models of each group. `actor_counts`: number of actors of each role. Both
    include actors outside `slots`, and default to counts of `slots`. `loads`: seconds to load a model; 0 if unknown.
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
        count = sum(slot.role == role for slot in slots) if actor_counts is None else actor_counts[role]
        total = sum(group.cost + group.coming for group in mine)
        waiting = [group for group in mine if group.count]
        chosen += _assign(waiting, free, _Outlook(known, loads or {}, count / total if total else 0.0), count)
    return chosen


@dataclass(frozen=True)
class _Outlook:
    """What `assign` expects.

    Attributes:
        holders: Number of actors that hold the models of each group.
        loads: Seconds to load each model.
        slots: Number of actors per second of work that is waiting or announced.
    """

    holders: dict[Hashable, int]
    loads: Mapping[str, float]
    slots: float

    def need(self, group: Group, joining: int = 0) -> float:
        """Seconds until the work of a group and one more task are done, if `joining` more actors hold its models."""
        return (group.cost + group.cost / group.count) / max(1, self.holders[group.key] + joining)

    def worth(self, group: Group, slot: SlotView) -> bool:
        """Whether an actor that loads the group's models would finish a task before the other actors finish all."""
        holders = self.holders[group.key]
        loading = sum(self.loads.get(name, 0.0) for name in group.models if name not in slot.holds)
        if not holders or not loading:
            return True
        patience = loading + group.cost / group.count
        if group.urgent and holders >= _HOLDER_EXCESS * self.slots * (group.cost + group.coming):
            # The target has its share of the actors. They will catch up unless very many batches wait.
            return group.cost / holders > _WAVE * patience
        return (group.cost + group.coming) / holders > patience


def _holding(group: Group, slots: Iterable[SlotView]) -> int:
    return sum(slot.role == group.role and group.models <= set(slot.holds) for slot in slots)


def _assign(groups: list[Group], free: list[SlotView], outlook: _Outlook, actors: int) -> list[Assignment]:
    left = {group.key: group for group in groups}
    by_id = {slot.id: slot for slot in free}
    queues = [(slot.queued, slot.id) for slot in free]
    heapq.heapify(queues)
    tasks = sum(group.count for group in groups)
    chosen: list[Assignment] = []
    seconds, longest = sum(group.cost for group in groups), max((one.cost / one.count for one in groups), default=0)
    while left and queues:
        queued, number = queues[0]
        if queued and (tasks <= actors or seconds < longest * actors):
            break
        slot = by_id[number]
        group = _pick(slot, list(left.values()), outlook)
        if group is None:
            heapq.heappop(queues)
            continue
        drop, holds = _hold(slot, sorted(group.models))
        chosen.append(Assignment(group.key, number, drop))
        if holds != slot.holds:
            for key, other in left.items():
                outlook.holders[key] += (other.models <= set(holds)) - (other.models <= set(slot.holds))
        by_id[number] = slot._replace(holds=holds, queued=queued + 1)
        if queued + 1 < QUEUE:
            heapq.heapreplace(queues, (queued + 1, number))
        else:
            heapq.heappop(queues)
        tasks -= 1
        seconds -= group.cost / group.count
        if group.count == 1:
            del left[group.key]
        else:
            rest = group.cost * (group.count - 1) / group.count
            left[group.key] = group._replace(count=group.count - 1, cost=rest)
    return chosen


def _pick(slot: SlotView, groups: Sequence[Group], outlook: _Outlook) -> Group | None:
    held = set(slot.holds)
    here = [group for group in groups if group.models <= held]
    urgent = [group for group in here if group.urgent] or [
        group
        for group in groups
        if group.urgent
        and group.count > _WAITING_PER_HOLDER * outlook.holders[group.key]
        and outlook.worth(group, slot)
    ]
    if urgent:
        return max(urgent, key=lambda one: one.count)
    if here:
        return max(here, key=outlook.need)
    useful = [group for group in groups if outlook.worth(group, slot)]
    return max(useful, key=lambda one: outlook.need(one, 1), default=None)


def _hold(slot: SlotView, models: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The models to drop so that `models` fit, and the models that the slot holds afterwards."""
    others = [name for name in slot.holds if name not in models]
    kept = list(others)
    while kept and slot.capacity.size_of((*kept, *models)) > slot.capacity.limit:
        kept.pop(0)
    return tuple(others[: len(others) - len(kept)]), (*kept, *models)


def after(slot: SlotView, models: Iterable[str]) -> tuple[str, ...]:
    """The models that `slot` holds once it gets a task that needs `models`."""
    return _hold(slot, sorted(models))[1]


def drops(slot: SlotView, models: Iterable[str]) -> tuple[str, ...]:
    """The models that `slot` drops for a task that needs `models`."""
    return _hold(slot, sorted(models))[0]
