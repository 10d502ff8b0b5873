"""The loop that carries the policy out: work in, results and failures out, whatever dies in between.

Ray restarts and retries nothing here. A dead actor is replaced and its calls are given out again; a late answer of a
dead actor is never looked at, because its reference was forgotten with the actor.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from actors.backends.interface import ActorLost, Backend, BackendGone, Call, MachineLost, MemoryLost, PixelsLost, Ref
from actors.resources.placement import WORKER, MachineRoom, WorkerPool
from actors.scheduling import policy
from actors.scheduling.backlog import Backlog, Key, Task
from actors.scheduling.blame import Blame, another
from actors.scheduling.call_durations import Pace
from actors.scheduling.slot import ActorSlot
from actors.scheduling.slots import Limits, Slots
from actors.workers.model_cache import ModelRequest
from actors.workers.worker_config import WorkerConfig
from study.errors import StudyError, first_line
from study.events.observer import State
from study.events.repairs import repaired
from study.reproducibility.float_environment import Arithmetic

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
        crew: WorkerPool,
        kit: WorkerConfig,
        *,
        limits: Limits,
        elastic: bool = False,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`elastic`: the number of workers follows the machines that come and go. `say` is told of every repair."""
        self._backend = backend
        self._room = crew.room
        self.device = crew.share.device
        self._limits = limits
        self._clock = clock
        self._backlog = Backlog()
        self._slots = Slots(backend, crew, kit, limits=limits, elastic=elastic, clock=clock, say=say)
        self._pace = Pace()
        self._blame = Blame(limits.attempts)
        self._retries: list[Task] = []
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
    def room(self) -> MachineRoom:
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
        return State(
            slots=[slot.state(now) for slot in self._slots],
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
        left = self._backlog or any(not task.ended for task in self._retries)
        return not left and all(task.ended for slot in self._slots for task, _ in slot.calls.values())

    def step(self, seconds: float, *, crafts: bool = True) -> list[Done | Failed]:
        """Give out work, without new `crafts` if so asked, then return what has ended within `seconds` at most."""
        self._give_out(crafts)
        running = {ref: slot for slot in self._slots for ref in (*slot.calls, *([] if slot.up else [slot.hello]))}
        events: list[Done | Failed] = []
        for ref in self._backend.wait(list(running), seconds):
            slot = running[ref]
            # It may have been set aside since, with others.
            if ref == slot.hello and slot in self._slots:
                self._slots.greet(slot)
            elif ref in slot.calls:
                events += self._answered(slot, ref)
        events += self._silent()
        if not self._backlog:
            self._repeat_stragglers()
        self._slots.look()
        return events

    def _give_out(self, crafts: bool) -> None:
        self._give_out_again(crafts, elsewhere=True)
        groups = [self._pace.timed(group) for group in self._backlog.groups(crafts=crafts)]
        if groups:
            up = [slot for slot in self._slots if slot.up]
            trusted = [slot for slot in up if not self._suspect(slot)]
            free = [self._seen(slot) for slot in trusted if len(slot.calls) < policy.QUEUE]
            holders = {group.key: self._holding(group, up) for group in groups}
            crew = Counter(slot.role for slot in up)
            for chosen in policy.assign(groups, free, holders=holders, crew=crew, loads=self._pace.loads):
                task = self._backlog.take(chosen.group)  # type: ignore[arg-type]
                if task is not None:
                    self._call(self._slots[chosen.slot], task, chosen.drop)
        self._give_out_again(crafts, elsewhere=False)

    def _give_out_again(self, crafts: bool, *, elsewhere: bool) -> None:
        """Tasks that have failed before: `elsewhere`, or, where there is no elsewhere, on what has nothing to do."""
        waiting, self._retries = [task for task in self._retries if not task.ended], []
        for task in waiting:
            up = [slot for slot in self._slots if slot.up and slot.role == task.key[0]]
            slot = another(task, up, self._suspect, elsewhere=elsewhere) if crafts or task.method == "predict" else None
            if slot is None:
                self._retries.append(task)
            else:
                self._call(slot, task, policy.drops(self._seen(slot), task.models))

    def _suspect(self, slot: ActorSlot) -> bool:
        """Whether an actor gets no new work for now; one that is alone, and in the place of another, gets some."""
        return self._blame.suspect(slot.line.number) and not (slot.line.strikes and self._alone(slot))

    def _alone(self, slot: ActorSlot) -> bool:
        """Whether no other actor could do the work of this one."""
        return not any(other.up and other.role == slot.role and other.line is not slot.line for other in self._slots)

    def _holding(self, group: policy.Group, up: list[ActorSlot]) -> int:
        """How many actors hold the models of a group: counted again only once some actor holds others."""
        if self._held_as_of != self._slots.version:
            self._held, self._held_as_of = {}, self._slots.version
        if group.key not in self._held:
            self._held[group.key] = sum(slot.role == group.role and group.models <= set(slot.holds) for slot in up)
        return self._held[group.key]

    def _call(self, slot: ActorSlot, task: Task, drop: tuple[str, ...]) -> None:
        self._slots.hold(slot, policy.after(self._seen(slot), task.models))
        if not slot.calls:
            slot.since = self._clock()
        call = self._backend.call(slot.actor, task.method, (ModelRequest(task.models, drop), task.job), task.pixels())
        task.copies += 1
        slot.calls[call.value] = (task, call)

    def _seen(self, slot: ActorSlot) -> policy.Slot:
        return policy.Slot(slot.id, slot.role, slot.holds, len(slot.calls), self._room)

    def _answered(self, slot: ActorSlot, ref: Ref) -> list[Done | Failed]:
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
                events += self._failed(slot, task, error)
        else:
            seconds = self._clock() - slot.since
            task, call = self._end_call(slot, ref)
            self._pace.learn(task, value, seconds)
            if not task.ended:
                events.append(Done(task, value, call.pixels))
            task.ended = True
            self._slots.succeeded(slot)
            self._blame.succeeded(task, slot.line.number)
            self._judge(task.tried)
        self._slots.prove(slot)
        return events

    def _end_call(self, slot: ActorSlot, ref: Ref) -> tuple[Task, Call]:
        task, call = slot.calls.pop(ref)
        task.copies -= 1
        slot.busy += self._clock() - slot.since
        slot.since = self._clock()
        self.calls += 1
        return task, call

    def _failed(self, slot: ActorSlot, task: Task, error: Exception) -> list[Done | Failed]:
        # Bad weights or a NaN do not go away by asking again, and lost pixels must be made again first.
        final = isinstance(error, StudyError | PixelsLost)
        if not final:
            self._blame.failed(task, slot.line.number)
            slot.line.error = error
        if task.copies:
            return []
        task.failures += 1
        if final or self._blame.convicted(task, alone=self._alone(slot)):
            task.ended = True
            return [Failed(task, error)]
        repaired("call", f"{task.called} failed, and is tried again: {first_line(error)}")
        self._retries.append(task)
        self._judge([slot.line.number])
        return []

    def _judge(self, lines: Iterable[int]) -> None:
        """Replace actors that fail what others carry out; what else they were given is given out again."""
        for number in list(lines):
            slot = self._slots.of_line(number)
            if slot is None or (slot.line.strikes and self._alone(slot)):
                continue
            if self._blame.guilty(number, alone=self._alone(slot)):
                for gone in self._slots.replace_failing(slot):
                    self._blame.forget(gone.line.number)
                    self._again([task for task, _ in gone.calls.values()])
                    gone.calls.clear()

    def _again(self, tasks: Sequence[Task]) -> None:
        """Give out again what an actor was to do that is no more, and that nothing is held against."""
        for task in tasks:
            task.copies -= 1
            if not task.ended and not task.copies:
                self.add(task)

    def _lost(self, slot: ActorSlot, error: ActorLost) -> list[Done | Failed]:
        """The actor of a slot has died: another in its place, and its calls are given out again."""
        self._slots.replace(slot, error)
        tasks = [task for task, _ in slot.calls.values()]
        slot.calls.clear()
        if not tasks:
            return []
        # The first call was running, and may be what killed the actor; those behind it were not to blame.
        first, *rest = tasks
        self._again(rest)
        first.copies -= 1
        blamed = not isinstance(error, MachineLost | MemoryLost)
        if blamed:
            first.losses += 1
            self._blame.failed(first, slot.line.number)
            slot.line.error = error
        else:
            first.machines += 1
        if first.ended or first.copies:
            return []
        often = first.machines >= _MACHINES * self._limits.attempts
        if often or self._blame.convicted(first, alone=self._alone(slot)):
            first.ended = True
            return [Failed(first, error)]
        if blamed:
            self._retries.append(first)
            self._judge([slot.line.number])
        else:
            self.add(first)
        return []

    def _silent(self) -> list[Done | Failed]:
        """An actor that does not answer for very long is held to be dead."""
        events, most = list[Done | Failed](), self._limits.call_seconds
        for slot in self._slots:
            if slot.calls and slot.up and self._clock() - slot.since > most:
                events += self._lost(slot, ActorLost(f"no answer within {most:g} s"))
        return events

    def _repeat_stragglers(self) -> None:
        """Calls that take far too long are made again where somebody is idle; the first answer counts."""
        workers = [slot for slot in self._slots if slot.up and slot.role == WORKER]
        idle = [slot for slot in workers if not slot.calls and not self._suspect(slot)]
        for slot in sorted((slot for slot in workers if slot.calls), key=lambda one: one.since):
            first, _ = next(iter(slot.calls.values()))
            if not self._pace.late(first, self._clock() - slot.since, self._limits.straggler_seconds):
                continue
            # With what runs there, what is queued behind it is late too.
            for task in [task for task, _ in slot.calls.values() if not task.ended and task.copies == 1]:
                if idle:
                    other = idle.pop(0)
                    self.repeated += 1
                    repaired("straggler", f"{task.called} takes far longer than its like, and is made elsewhere too")
                    self._call(other, task, policy.drops(self._seen(other), task.models))
