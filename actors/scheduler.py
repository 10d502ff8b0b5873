"""The loop that carries the policy out: work in, results and failures out, whatever dies in between.

Ray restarts and retries nothing here. A dead actor is replaced and its calls are given out again; a late answer of a
dead actor is never looked at, because its reference was forgotten with the actor.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from actors import policy
from actors.backend import ActorLost, Backend, Call, PixelsLost, Ref
from actors.kit import Kit
from actors.pinned import Pin
from actors.policy import Crew, Role, Share
from study.errors import StudyError


@dataclass
class Task:
    """One call to be made on some actor of `role` that holds `models` (by name, with the digests they must have)."""

    role: Role
    models: Mapping[str, str | None]
    job: Any
    pixels: Callable[[], Ref]
    """Asked when the task is given out, so that clean images are read no sooner than they are needed."""
    cost: float
    about: Any
    """Whatever the caller wants to find again when the task is done."""
    failures: int = 0
    losses: int = 0


@dataclass(frozen=True)
class Done:
    """A task that was carried out."""

    task: Task
    value: Any
    pixels: Ref | None


@dataclass(frozen=True)
class Failed:
    """A task that is set aside: it failed, or took actors with it, as often as is allowed."""

    task: Task
    error: Exception


@dataclass
class _Slot:
    id: int
    role: Role
    actor: Any
    holds: tuple[str, ...] = ()
    calls: dict[Ref, tuple[Task, Call]] = field(default_factory=dict)
    proven: bool = False
    """Whether an actor of this slot has ever answered: one that never did is not worth replacing for ever."""


class Scheduler:
    """A crew of actors and the work that is given out to them."""

    def __init__(
        self,
        backend: Backend,
        crew: Crew,
        kit: Kit,
        *,
        capacity: int,
        attempts: int,
        start_seconds: float,
    ) -> None:
        self._backend = backend
        self._crew = crew
        self._kit = kit
        self._capacity = capacity
        self._attempts = attempts
        self._start_seconds = start_seconds
        self._ids = itertools.count()
        self._ready: dict[int, Task] = {}
        self._slots: dict[int, _Slot] = {}
        self._barren = 0
        self.replaced = 0

    def start(self, check: Callable[[], None]) -> None:
        """Start the crew and wait until it is up, calling `check`, which may raise, every second.

        Raises StudyError where it is not up in time.
        """
        for role in self._crew.roles:
            self._new_slot(role)
        waiting = {self._backend.hello(slot.actor): slot for slot in self._slots.values()}
        deadline = time.monotonic() + self._start_seconds
        while waiting:
            check()
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._not_up(len(waiting))
            for ref in self._backend.wait(list(waiting), min(left, 1.0)):
                try:
                    self._backend.value(ref)
                except ActorLost as error:
                    raise StudyError(
                        f"a {waiting[ref].role} actor could not start: {_first_line(error)}",
                        todo="see that this project is installed on every machine of the cluster",
                    ) from error
                waiting.pop(ref).proven = True

    def _not_up(self, missing: int) -> StudyError:
        cpus, gpus = self._backend.capacity()
        crew = self._crew
        return StudyError(
            f"{missing} of {len(crew.roles)} actors did not start within {self._start_seconds:g} s",
            accepted=f"source actors take {_amount(crew.source)} and target actors {_amount(crew.target)} each; "
            f"the cluster has {cpus:g} cores and {gpus:g} GPUs, in use by others or not",
            todo="lower run.actors, raise run.start_seconds, or use another cluster",
        )

    def add(self, task: Task) -> None:
        """Give a task to the loop."""
        self._ready[next(self._ids)] = task

    @property
    def idle(self) -> bool:
        """Nothing is waiting and nothing is running."""
        return not self._ready and not any(slot.calls for slot in self._slots.values())

    def step(self, seconds: float, paused: Collection[Role] = ()) -> list[Done | Failed]:
        """Give out work, but none for `paused` roles, then return what has ended within `seconds` at most."""
        self._give_out(paused)
        running = {ref: slot for slot in self._slots.values() for ref in slot.calls}
        events: list[Done | Failed] = []
        for ref in self._backend.wait(list(running), seconds):
            slot = running[ref]
            if ref not in slot.calls:
                continue
            try:
                value = self._backend.value(ref)
            except ActorLost as error:
                events += self._replace(slot, error)
                continue
            except Exception as error:  # noqa: BLE001 - counted, repeated, and in the end reported whole
                task, _ = slot.calls.pop(ref)
                events += self._failed(task, error)
            else:
                task, call = slot.calls.pop(ref)
                events.append(Done(task, value, call.pixels))
            slot.proven = True
            self._barren = 0
        return events

    def _give_out(self, paused: Collection[Role]) -> None:
        work = [
            policy.Work(number, task.role, tuple(task.models), task.cost)
            for number, task in self._ready.items()
            if task.role not in paused
        ]
        slots = [self._seen(slot) for slot in self._slots.values()]
        for chosen in policy.assign(work, slots):
            task, slot = self._ready.pop(chosen.work), self._slots[chosen.slot]
            slot.holds = policy.after(self._seen(slot), tuple(task.models))
            arguments = (Pin(task.models, chosen.drop), task.job)
            call = self._backend.call(slot.actor, slot.role, arguments, task.pixels())
            slot.calls[call.value] = (task, call)

    def _seen(self, slot: _Slot) -> policy.Slot:
        return policy.Slot(slot.id, slot.role, slot.holds, len(slot.calls), self._capacity)

    def _failed(self, task: Task, error: Exception) -> list[Done | Failed]:
        task.failures += 1
        # Bad weights or a NaN do not go away by asking again, and lost pixels must be made again first.
        if isinstance(error, StudyError | PixelsLost) or task.failures >= self._attempts:
            return [Failed(task, error)]
        self.add(task)
        return []

    def _replace(self, slot: _Slot, error: ActorLost) -> list[Done | Failed]:
        """A new actor in the place of a dead one, whose calls are given out again."""
        del self._slots[slot.id]
        self._backend.stop(slot.actor)
        self._barren += not slot.proven
        if self._barren > self._attempts:
            raise StudyError(
                f"{self._barren} {slot.role} actors in a row died before they did anything: {_first_line(error)}",
                todo="see the memory and the logs of the machines; what was published is kept",
                status=1,
            ) from error
        self.replaced += 1
        self._new_slot(slot.role)
        tasks = [task for task, _ in slot.calls.values()]
        slot.calls.clear()
        # The first call was running, and may be what killed the actor; those behind it were not to blame.
        tasks[0].losses += 1
        events: list[Done | Failed] = []
        for task in tasks:
            if task.losses >= self._attempts:
                events.append(Failed(task, error))
            else:
                self.add(task)
        return events

    def _new_slot(self, role: Role) -> None:
        number = next(self._ids)
        actor = self._backend.start(role, self._crew.share(role), self._kit)
        self._slots[number] = _Slot(number, role, actor)


def _amount(share: Share) -> str:
    return f"{share.gpus:g} GPUs" if share.gpus else f"{share.cpus:g} cores"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
