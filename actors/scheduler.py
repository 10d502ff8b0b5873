"""The loop that carries the policy out: work in, results and failures out, whatever dies in between.

Ray restarts and retries nothing here. A dead actor is replaced and its calls are given out again; a late answer of a
dead actor is never looked at, because its reference was forgotten with the actor.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from actors import policy
from actors.backend import ActorLost, Backend, BackendGone, Call, MachineLost, PixelsLost, Ref
from actors.backlog import Backlog, Key, Method, Task
from actors.jobs import Timed
from actors.kit import Kit
from actors.pinned import Pin
from actors.placement import WORKER, Crew, Room
from actors.slots import Limits, Slot, Slots
from study.arithmetic import Arithmetic
from study.errors import StudyError, first_line
from study.repairs import repaired
from study.watching import SlotState, State

_MACHINES = 10
"""Times `attempts` that a task may be lost with its machine: one that takes machines down with it must end too."""


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


class Scheduler:
    """A crew of actors and the work that is given out to them."""

    def __init__(
        self,
        backend: Backend,
        crew: Crew,
        kit: Kit,
        *,
        limits: Limits,
        elastic: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`elastic`: the number of workers follows the machines that come and go."""
        self._backend = backend
        self._room = crew.room
        self.device = crew.share.device
        self._limits = limits
        self._clock = clock
        self._backlog = Backlog()
        self._slots = Slots(backend, crew, kit, limits=limits, elastic=elastic, clock=clock)
        self._pace: dict[object, float] = {}
        self._usual: dict[str, float] = {}
        self._loads: dict[str, float] = {}
        self._held: dict[object, int] = {}
        self._held_as_of = -1
        self.calls = self.failed_calls = self.repeated = 0

    @property
    def replaced(self) -> int:
        """Actors that died, and had another put in their place."""
        return self._slots.replaced

    @property
    def hardware(self) -> list[str]:
        """What the workers compute on, by name, so far as they are up."""
        return sorted({one.processor for one in self.arithmetics})

    @property
    def arithmetics(self) -> Collection[Arithmetic]:
        """What the workers compute with, so far as they are up."""
        return self._slots.arithmetics

    @property
    def workers(self) -> int:
        """How many there are, up or not."""
        return sum(slot.role == WORKER for slot in self._slots)

    @property
    def room(self) -> Room:
        """What an actor may hold."""
        return self._room

    def start(self, check: Callable[[], None]) -> None:
        """Start the crew, calling `check`, which may raise, while it waits. StudyError where it is not up in time."""
        self._slots.start(check)

    def stop(self) -> None:
        """End all actors."""
        self._slots.stop()

    def state(self, waiting_bytes: int) -> State:
        """How the loop stands; `waiting_bytes` are those of batches that wait for targets."""
        now, groups = self._clock(), self._backlog.groups(crafts=True)
        slots = []
        for slot in self._slots:
            doing = next((task for task, _ in slot.calls.values()), None)
            here = max(now - slot.began, 1e-9)
            at_it = slot.busy + (now - slot.since if slot.calls else 0.0)
            slots.append(
                SlotState(
                    id=slot.id,
                    role=slot.role,
                    up=slot.up,
                    holds=slot.holds,
                    queued=len(slot.calls),
                    doing="" if doing is None else doing.called,
                    busy_share=min(1.0, at_it / here) if slot.up else 0.0,
                )
            )
        return State(
            slots=slots,
            waiting_crafts=sum(group.count for group in groups if not group.urgent),
            waiting_batches=sum(group.count for group in groups if group.urgent),
            waiting_bytes=waiting_bytes,
            calls=self.calls,
            failed_calls=self.failed_calls,
            lost_actors=self.replaced,
            repeated=self.repeated,
        )

    def add(self, task: Task, *, first: bool = False) -> None:
        """Give a task to the loop; `first` where other work waits for it."""
        self._backlog.add(task, first=first)

    def feed(self, tasks: Iterator[Task], count: int, *, first: bool = False) -> None:
        """Give a stream of `count` tasks for the same models to the loop, which makes each when its time has come."""
        self._backlog.feed(tasks, count, first=first)

    def expect(self, key: Key, cost: float) -> None:
        """Tell the loop of tasks that will come once others are done: slots are shared out with them in mind."""
        self._backlog.expect(key, cost)

    @property
    def idle(self) -> bool:
        """Nothing is waiting, and nothing is running that has not been done elsewhere."""
        return not self._backlog and all(task.ended for slot in self._slots for task, _ in slot.calls.values())

    def step(self, seconds: float, *, crafts: bool = True) -> list[Done | Failed]:
        """Give out work, without new `crafts` if so asked, then return what has ended within `seconds` at most."""
        self._give_out(crafts)
        running = {ref: slot for slot in self._slots for ref in (*slot.calls, *([] if slot.up else [slot.hello]))}
        events: list[Done | Failed] = []
        for ref in self._backend.wait(list(running), seconds):
            slot = running[ref]
            if ref == slot.hello:
                events += self._came_up(slot)
            elif ref in slot.calls:
                events += self._answered(slot, ref)
        events += self._silent()
        if not self._backlog:
            self._repeat_stragglers()
        self._slots.look()
        return events

    def _give_out(self, crafts: bool) -> None:
        groups = [self._timed(group) for group in self._backlog.groups(crafts=crafts)]
        if not groups:
            return
        up = [slot for slot in self._slots if slot.up]
        free = [self._seen(slot) for slot in up if len(slot.calls) < policy.QUEUE]
        holders = {group.key: self._holding(group, up) for group in groups}
        crew = Counter(slot.role for slot in up)
        for chosen in policy.assign(groups, free, holders=holders, crew=crew, loads=self._loads):
            task = self._backlog.take(chosen.group)  # type: ignore[arg-type]
            if task is not None:
                self._call(self._slots[chosen.slot], task, chosen.drop)

    def _timed(self, group: policy.Group) -> policy.Group:
        """A group with its cost in seconds, as others like it took where none of its own was done yet."""
        pace = self._pace.get(group.key) or self._usual.get(group.key[1], self._guess(group.key[1]))  # type: ignore[index]
        if not pace:
            return group
        cost, coming = group.cost * pace, group.coming * pace
        return policy.Group(group.key, group.role, group.models, group.urgent, group.count, cost, coming)

    def _guess(self, method: Method) -> float:
        """A gradient takes about as long as three predictions; 0 where nothing is known."""
        return self._usual.get("craft", 0.0) / 3 if method == "predict" else self._usual.get("predict", 0.0) * 3

    def _holding(self, group: policy.Group, up: list[Slot]) -> int:
        """How many actors hold the models of a group: counted again only once some actor holds others."""
        if self._held_as_of != self._slots.version:
            self._held, self._held_as_of = {}, self._slots.version
        if group.key not in self._held:
            self._held[group.key] = sum(slot.role == group.role and group.models <= set(slot.holds) for slot in up)
        return self._held[group.key]

    def _call(self, slot: Slot, task: Task, drop: tuple[str, ...]) -> None:
        self._slots.hold(slot, policy.after(self._seen(slot), task.models))
        if not slot.calls:
            slot.since = self._clock()
        call = self._backend.call(slot.actor, task.method, (Pin(task.models, drop), task.job), task.pixels())
        task.copies += 1
        slot.calls[call.value] = (task, call)

    def _seen(self, slot: Slot) -> policy.Slot:
        return policy.Slot(slot.id, slot.role, slot.holds, len(slot.calls), self._room)

    def _came_up(self, slot: Slot) -> list[Done | Failed]:
        try:
            said = self._backend.value(slot.hello)
        except ActorLost as error:
            return self._lost(slot, error)
        self._slots.came_up(slot, said)
        return []

    def _answered(self, slot: Slot, ref: Ref) -> list[Done | Failed]:
        events: list[Done | Failed] = []
        try:
            value = self._backend.value(ref)
        except ActorLost as error:
            return self._lost(slot, error)
        except BackendGone:
            raise
        except Exception as error:  # noqa: BLE001 - counted, repeated, and in the end reported whole
            task, _ = self._end_call(slot, ref)
            self.failed_calls += 1
            if not task.ended:
                events += self._failed(task, error)
        else:
            seconds = self._clock() - slot.since
            task, call = self._end_call(slot, ref)
            self._learn(task, value, seconds)
            if not task.ended:
                events.append(Done(task, value, call.pixels))
            task.ended = True
        self._slots.prove(slot)
        return events

    def _end_call(self, slot: Slot, ref: Ref) -> tuple[Task, Call]:
        task, call = slot.calls.pop(ref)
        task.copies -= 1
        slot.busy += self._clock() - slot.since
        slot.since = self._clock()
        self.calls += 1
        return task, call

    def _learn(self, task: Task, value: Any, seconds: float) -> None:
        """How long a unit of cost takes with these models, and loading them; `seconds` where a worker does not say."""
        if isinstance(value, Timed):
            seconds = value.seconds - sum(value.loads.values())
            for name, took in value.loads.items():
                _mix(self._loads, name, took)
        pace = seconds / max(task.cost, 1e-9)
        _mix(self._pace, task.key, pace)
        _mix(self._usual, task.method, pace)

    def _failed(self, task: Task, error: Exception) -> list[Done | Failed]:
        if task.copies:
            return []
        task.failures += 1
        # Bad weights or a NaN do not go away by asking again, and lost pixels must be made again first.
        if isinstance(error, StudyError | PixelsLost) or task.failures >= self._limits.attempts:
            task.ended = True
            return [Failed(task, error)]
        repaired("call", f"{task.called} failed, and is tried again: {first_line(error)}")
        self.add(task)
        return []

    def _lost(self, slot: Slot, error: ActorLost) -> list[Done | Failed]:
        """The actor of a slot has died: another in its place, and its calls are given out again."""
        self._slots.replace(slot, error)
        tasks = [task for task, _ in slot.calls.values()]
        slot.calls.clear()
        if tasks and isinstance(error, MachineLost):
            tasks[0].machines += 1
        elif tasks:
            # The first call was running, and may be what killed the actor; those behind it were not to blame.
            tasks[0].losses += 1
        events: list[Done | Failed] = []
        for task in tasks:
            task.copies -= 1
            if task.ended or task.copies:
                continue
            if task.losses >= self._limits.attempts or task.machines >= _MACHINES * self._limits.attempts:
                task.ended = True
                events.append(Failed(task, error))
            else:
                self.add(task)
        return events

    def _silent(self) -> list[Done | Failed]:
        """An actor that does not answer for very long is held to be dead."""
        events: list[Done | Failed] = []
        most = self._limits.call_seconds
        for slot in self._slots:
            if slot.calls and slot.up and self._clock() - slot.since > most:
                events += self._lost(slot, ActorLost(f"no answer within {most:g} s"))
        return events

    def _repeat_stragglers(self) -> None:
        """Calls that take far too long are made again where somebody is idle; the first answer counts."""
        workers = [slot for slot in self._slots if slot.up and slot.role == WORKER]
        idle = [slot for slot in workers if not slot.calls]
        for slot in sorted((slot for slot in workers if slot.calls), key=lambda one: one.since):
            if not self._late(slot):
                continue
            # With what runs there, what is queued behind it is late too.
            for task in [task for task, _ in slot.calls.values() if not task.ended and task.copies == 1]:
                if idle:
                    other = idle.pop(0)
                    self.repeated += 1
                    repaired("straggler", f"{task.called} takes far longer than its like, and is made elsewhere too")
                    self._call(other, task, policy.drops(self._seen(other), task.models))

    def _late(self, slot: Slot) -> bool:
        """Whether the first call of a slot takes far longer than calls like it did."""
        task, _ = next(iter(slot.calls.values()))
        usual = self._pace.get(task.key)
        patience = self._limits.straggler_seconds
        if usual is None:
            return False
        loading = sum(self._loads.get(name, 0.0) for name in task.models)
        return self._clock() - slot.since >= max(patience, 3 * (usual * task.cost + loading))


def _mix(known: dict[Any, float], key: Any, new: float) -> None:
    """What was measured, new values counting for a fifth."""
    known[key] = new if key not in known else 0.8 * known[key] + 0.2 * new
