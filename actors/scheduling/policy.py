"""The scheduling policy: assigns tasks to actors, and decides which models an actor drops.

All functions depend on their arguments only. They use neither Ray nor a clock.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from actors.resources.placement import ModelCapacity, Role

QUEUE = 2
"""Largest number of calls at one actor: one call that runs, and one that waits so that it can start without delay."""

SHORT_QUEUE = 8
"""Largest number of calls at one actor if all its calls are short. For short calls, the backend takes longer than the
calls themselves, so several calls start together."""

SHORT_SECONDS = 0.005
"""Longest duration of a short call, in seconds."""

_WAITING_PER_HOLDER = 4
"""Number of batches (images that wait for predictions) per actor that holds their target. If more batches wait, a
further actor may load the target."""

_HOLDER_EXCESS = 1.2
"""Factor on a target's fair share of the actors, which is proportional to the target's part of all work. More actors
than the share may hold the target, so that its batches do not pile up."""

_WAVE = 4
"""If a target already has its share of actors, a further actor loads it only if many batches wait. The present holders
must need more than `_WAVE` times as long for these batches as it takes to load the target and execute one task."""


class Group(NamedTuple):
    """Waiting tasks of one method that need the same models.

    Attributes:
        key: The key of the tasks.
        role: The role of the actors that can execute the tasks.
        models: The names of the models that the tasks need.
        urgent: Whether the tasks are predictions. Their images occupy memory until the predictions are done.
        count: Number of tasks.
        cost: Cost of all these tasks together, in seconds if known.
        coming: Cost of announced tasks, which will be added later.
        largest: Cost of the next task. Tasks with a higher cost come first, except that tasks for which other work
            waits come before all others.
    """

    key: Hashable
    role: Role
    models: frozenset[str]
    urgent: bool
    count: int  # type: ignore[assignment]  # a tuple has a method of this name
    cost: float
    coming: float = 0.0
    largest: float = 0.0


class SlotView(NamedTuple):
    """An actor as the policy sees it.

    Attributes:
        id: The number of the actor.
        role: The role of the actor.
        holds: The models that the actor holds, the least recently used first.
        queued: Number of calls of the actor, the running call included.
        capacity: How many models the actor may hold.
        most: Largest number of calls of the actor. Calls beyond `QUEUE` must be for models that the actor holds.
    """

    id: int
    role: Role
    holds: tuple[str, ...]
    queued: int
    capacity: ModelCapacity
    most: int = QUEUE


class Assignment(NamedTuple):
    """A decision of the policy: the next task of a group goes to an actor.

    Attributes:
        group: The key of the group.
        slot: The number of the actor.
        drop: The models that the actor must drop first.
    """

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
    """Return the calls to start now on the actors `slots`.

    Actors with the fewest calls choose first. Each actor takes the first of these kinds of work that exists:

    - a batch (images that wait for predictions) for a target that the actor holds;
    - a batch for a target with too many waiting batches, even if the actor must load this target;
    - another task for models that the actor holds, from the group with the most work per holder;
    - a task for models that the actor must load.

    An actor loads models only if it would load them and finish a task before the present holders have done all the
    work.

    A second call is queued for an actor only while there is more work than actors. At the end of the work, a queued
    call would only wait, while an idle actor could start it at once.

    `holders`: number of actors that hold the models of each group, by key of the group. `actor_counts`: number of
    actors of each role. Both include actors outside `slots`. By default, both are counted from `slots`. `loads`:
    seconds to load a model, by name; 0 if unknown.
    """
    chosen: list[Assignment] = []
    by_role: dict[Role, list[Group]] = {}
    for group in groups:
        by_role.setdefault(group.role, []).append(group)
    for role, mine in by_role.items():
        free = [slot for slot in slots if slot.role == role and slot.queued < slot.most]
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
    """The present holders of models and the expected work, on which the decisions of `assign` are based.

    Attributes:
        holders: Number of actors that hold the models of each group, by key of the group.
        loads: Seconds to load each model, by name.
        slots: Number of actors, divided by the seconds of all work that is waiting or announced.
    """

    holders: dict[Hashable, int]
    loads: Mapping[str, float]
    slots: float

    def need(self, group: Group, joining: int = 0) -> float:
        """Return the seconds until the work of a group, and one more task, are done.

        `joining`: number of further actors that will hold the models of the group.
        """
        return (group.cost + group.cost / group.count) / max(1, self.holders[group.key] + joining)

    def worth(self, group: Group, slot: SlotView) -> bool:
        """Return whether an actor should load the models of a group.

        It should if it would load them and finish a task before the present holders have done all tasks. For a target
        that already has its share of actors, many more batches must wait (see `_WAVE`).
        """
        holders = self.holders[group.key]
        loading = sum(self.loads.get(name, 0.0) for name in group.models if name not in slot.holds)
        if not holders or not loading:
            return True
        patience = loading + group.cost / group.count
        if group.urgent and holders >= _HOLDER_EXCESS * self.slots * (group.cost + group.coming):
            # The target has its share of the actors. If only some batches wait, these actors will catch up.
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
        if queued >= QUEUE and not group.models <= set(slot.holds):
            heapq.heappop(queues)
            continue
        chosen.append(Assignment(group.key, number, drop))
        if holds != slot.holds:
            for key, other in left.items():
                outlook.holders[key] += (other.models <= set(holds)) - (other.models <= set(slot.holds))
        by_id[number] = slot._replace(holds=holds, queued=queued + 1)
        if queued + 1 < slot.most:
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
    """Return the models that the slot must drop so that `models` fit, and the models that it holds afterwards."""
    others = [name for name in slot.holds if name not in models]
    kept = list(others)
    while kept and slot.capacity.size_of((*kept, *models)) > slot.capacity.limit:
        kept.pop(0)
    return tuple(others[: len(others) - len(kept)]), (*kept, *models)


def after(slot: SlotView, models: Iterable[str]) -> tuple[str, ...]:
    """Return the models that `slot` holds after it gets a task that needs `models`, the least recently used first."""
    return _hold(slot, sorted(models))[1]


def drops(slot: SlotView, models: Iterable[str]) -> tuple[str, ...]:
    """Return the models that `slot` must drop to get a task that needs `models`."""
    return _hold(slot, sorted(models))[0]
