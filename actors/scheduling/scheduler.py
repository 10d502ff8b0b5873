"""The scheduling loop: takes tasks, and returns results and failures. The dispatcher gives the tasks to actors.

The scheduler itself replaces dead actors and repeats their calls. Ray's own restarts and retries are switched off. If
an actor is replaced, the scheduler forgets the references of its calls, and so never reads a late answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from actors.backends.interface import (
    ActorLost,
    Backend,
    BackendGone,
    BundleFailed,
    Device,
    DeviceLost,
    MachineLost,
    MemoryLost,
    PixelsLost,
    Ref,
)
from actors.resources.growth import Growth
from actors.resources.placement import WORKER, WorkerPool
from actors.scheduling.actor_slot import ActorSlot
from actors.scheduling.backlog import Key, Task
from actors.scheduling.blame import Blame
from actors.scheduling.dispatcher import Dispatcher
from actors.scheduling.limits import Limits
from actors.scheduling.supervisor import ActorSupervisor
from actors.workers.worker_config import WorkerConfig
from study.errors import StudyError, first_line
from study.events.observer import State
from study.events.repairs import repaired
from study.reproducibility.float_environment import Arithmetic

_LOOK_SECONDS = 1.0
"""Seconds between two checks for calls that take too long. A check looks at all actors, so not every step has one."""

_MOST_ASKED = 16
"""Largest number of workers for which displays show the progress of each call."""

_MACHINE_LOSSES = 10
"""Number of lost machines, or of actors killed for lack of memory, for each allowed attempt of a task. After this
number, the task fails for good, because it may have caused these losses."""


@dataclass(frozen=True)
class Done:
    """A task that has succeeded.

    Attributes:
        task: The task.
        value: The result of the call.
        pixels: The reference to the adversarial images; None if the call returns no images.
    """

    task: Task
    value: Any
    pixels: Ref | None


@dataclass(frozen=True)
class Failed:
    """A task that has failed for good, and is not tried again.

    Attributes:
        task: The task.
        error: The error of the last attempt.
    """

    task: Task
    error: Exception


class Scheduler:
    """Gives tasks to the actors of a worker pool, and collects the results."""

    def __init__(
        self,
        backend: Backend,
        pool: WorkerPool,
        config: WorkerConfig,
        *,
        limits: Limits,
        elastic: bool = False,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = lambda line: None,
        growth: Growth | None = None,
    ) -> None:
        """Create the scheduler. The actors are started by `start`.

        `elastic`: whether the number of workers changes when machines join and leave. `clock` returns a time in
        seconds. `say` prints a line for the user. `growth` asks the autoscaler of the cluster for more machines while
        tasks wait; None without an autoscaler.
        """
        self._backend = backend
        self.capacity = pool.capacity
        """How many models each worker may hold, as planned. A worker on a larger GPU may hold more."""
        self.device = pool.resources.device
        self.device_share = pool.resources.gpus or pool.resources.cpus
        """The number of GPUs that one worker occupies (0.5 if two workers share one). On processors, the number of
        cores."""
        self._limits = limits
        self._clock = clock
        self._actors = ActorSupervisor(backend, pool, config, limits=limits, elastic=elastic, clock=clock, say=say)
        self._growth = growth
        self._blame = Blame(limits.attempts)
        self._dispatcher = Dispatcher(backend, self._actors, self._blame, capacity=self.capacity, clock=clock)
        self._any_done = False
        self._looked = clock()
        self.failed_calls = self.repeated = 0

    @property
    def calls(self) -> int:
        """Number of calls that have ended."""
        return self._dispatcher.calls

    @property
    def replaced(self) -> int:
        """Number of actors that were replaced."""
        return self._actors.replaced

    @property
    def hardware(self) -> list[str]:
        """Names of the processors or GPUs of all workers that have come up, sorted."""
        return sorted({one.processor for one in self.arithmetics})

    @property
    def arithmetics(self) -> Collection[Arithmetic]:
        """The arithmetic of all workers that have come up: what determines how they round floats."""
        return self._actors.arithmetics

    def on_arithmetic(self, met: Callable[[Arithmetic], None]) -> None:
        """Call `met` whenever a worker comes up whose arithmetic no earlier worker had.

        The arithmetic is what determines how a worker rounds floats, such as its processor or GPU, and the releases of
        libraries.
        """
        self._actors.met = met

    @property
    def workers(self) -> int:
        """Number of workers, including those that are still starting."""
        return self._dispatcher.workers

    def start(self, check: Callable[[], None]) -> None:
        """Start all actors and wait until they are up.

        If some workers are not up in time, the study runs without them. Raises StudyError if no worker, or not every
        service, is up in time. `check` is called about once a second during the wait, and may raise.
        """
        self._actors.start(check)

    def stop(self) -> None:
        """End all actors."""
        self._actors.stop()

    def state(self, waiting_bytes: int) -> State:
        """Return the state for displays. `waiting_bytes`: bytes of adversarial images that wait for targets."""
        now, groups = self._clock(), self._dispatcher.backlog.groups(crafts=True)
        return State(
            slots=[slot.state(now, self._activity(slot)) for slot in self._actors],
            waiting_crafts=sum(group.count for group in groups if not group.urgent),
            waiting_batches=sum(group.count for group in groups if group.urgent),
            waiting_bytes=waiting_bytes,
            calls=self.calls,
            failed_calls=self.failed_calls,
            lost_actors=self.replaced,
            repeated=self.repeated,
        )

    def _activity(self, slot: ActorSlot) -> str:
        """Return the progress of an actor's running call, for displays, such as `step 34 of 100`.

        Returns an empty text if the actor is idle, or if there are more than `_MOST_ASKED` workers. With many workers,
        units end often enough to show that the study goes on.
        """
        return self._backend.activity(slot.actor) if slot.calls and self.workers <= _MOST_ASKED else ""

    def add(self, task: Task, *, first: bool = False) -> None:
        """Add a task. `first`: whether other work waits for this task."""
        self._dispatcher.backlog.add(task, first=first)

    def add_stream(self, tasks: Iterator[Task], count: int, *, first: bool = False) -> None:
        """Add `count` tasks for the same models. Each task, except the first, is created when an actor takes it.

        `first`: whether other work waits for these tasks.
        """
        self._dispatcher.backlog.add_stream(tasks, count, first=first)

    def expect(self, key: Key, cost: float) -> None:
        """Announce tasks that will be added once other tasks are done, so that the policy keeps actors for them.

        `cost`: the cost of these tasks together. A negative cost withdraws an announcement.
        """
        self._dispatcher.backlog.expect(key, cost)

    @property
    def idle(self) -> bool:
        """Whether all tasks have ended. Calls whose result is no longer needed may still run."""
        left = self._dispatcher.backlog or any(not task.ended for task in self._dispatcher.retries)
        return not left and all(task.ended for slot in self._actors for task, _ in slot.calls.values())

    def step(self, seconds: float, *, crafts: bool = True) -> list[Done | Failed]:
        """Give tasks to actors, wait for answers for at most `seconds`, and return the tasks that have ended.

        `crafts`: whether new attacks and probes may start. Predictions may always start.
        """
        self._dispatcher.give_out(crafts)
        running = self._dispatcher.running
        events: list[Done | Failed] = []
        for ref, slot in [(ref, running[ref]) for ref in self._backend.wait(list(running), seconds)]:
            # An earlier answer in this loop may have removed the slot.
            if ref == slot.hello and slot in self._actors:
                self._actors.greet(slot)
            elif ref in slot.calls:
                events += self._answered(slot, ref)
        self._judge_devices()
        now = self._clock()
        if now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            events += self._silent()
            if not self._dispatcher.backlog:
                self._repeat_stragglers()
        self._actors.follow_machines()
        if self._growth is not None and self._growth.due(self._clock()):
            waiting = sum(group.count for group in self._dispatcher.backlog.groups(crafts=True) if group.role == WORKER)
            self._growth.follow(self.workers, waiting, self._clock())
        return events

    def _answered(self, slot: ActorSlot, ref: Ref) -> list[Done | Failed]:
        events: list[Done | Failed] = []
        try:
            value = self._backend.value(ref)
        except DeviceLost as error:
            return self._device_lost(slot, ref, error)
        except ActorLost as error:
            return self._lost(slot, error)
        except BackendGone:
            raise
        except BundleFailed as error:
            task, _ = self._dispatcher.end(slot, ref)
            self.failed_calls += 1
            task.alone = True
            if not task.ended and not task.copies:
                repaired("call", f"{task.description} failed with other calls, and starts again alone: {error}")
                self.add(task)
        except Exception as error:  # noqa: BLE001 - the error is counted, and the call repeated or reported
            task, _ = self._dispatcher.end(slot, ref)
            self.failed_calls += 1
            if not task.ended:
                events += self._failed(slot, task, error)
        else:
            seconds = self._clock() - slot.since
            task, call = self._dispatcher.end(slot, ref)
            self._dispatcher.durations.learn(task, value, seconds)
            if not task.ended:
                events.append(Done(task, value, call.pixels))
            task.ended = True
            self._actors.succeeded(slot)
            self._blame.succeeded(task, slot.places)
            self._judge(place for place in task.tried if isinstance(place, int))
            self._any_done = self._any_done or slot.role == WORKER
        self._actors.prove(slot)
        return events

    def _failed(self, slot: ActorSlot, task: Task, error: Exception) -> list[Done | Failed]:
        # Bad weights or a NaN would fail again in every attempt. Lost pixels must first be crafted again.
        final = isinstance(error, StudyError | PixelsLost)
        if not final:
            self._blame.failed(task, slot.lineage.number)
            slot.lineage.error = error
        if task.copies:
            return []
        task.failures += 1
        if final or self._blame.convicted(task, alone=self._dispatcher.alone(slot)):
            task.ended = True
            return [Failed(task, error)]
        repaired("call", f"{task.description} failed, and is tried again: {first_line(error)}")
        self._dispatcher.retries.append(task)
        self._judge([slot.lineage.number])
        return []

    def _judge(self, lineages: Iterable[int]) -> None:
        """Replace actors that are to blame for failed tasks. Their other tasks go back into the backlog.

        `lineages`: the numbers of the lineages (an actor and its replacements) to check.
        """
        for number in list(lineages):
            slot = self._actors.of_lineage(number)
            if slot is None or (slot.lineage.strikes and self._dispatcher.alone(slot)):
                continue
            if self._blame.guilty(number, alone=self._dispatcher.alone(slot)):
                for gone in self._actors.replace_failing(slot):
                    self._blame.forget(gone.lineage.number)
                    self._again([task for task, _ in gone.calls.values()])
                    gone.calls.clear()

    def _again(self, tasks: Sequence[Task]) -> None:
        """Put the tasks of an actor that no longer exists back into the backlog."""
        for task in tasks:
            task.copies -= 1
            if not task.ended and not task.copies:
                self.add(task)

    def _lost(self, slot: ActorSlot, error: ActorLost) -> list[Done | Failed]:
        """Replace an actor that has died, and repeat the actor's calls.

        Returns the task of the running call if this task has failed for good.
        """
        self._actors.replace(slot, error)
        tasks = [task for task, _ in slot.calls.values()]
        suspects = slot.first
        slot.calls.clear()
        if len(suspects) > 1:
            # Any of these tasks may have killed the actor. Each of them starts alone from now on, so the next death has
            # one suspect.
            for task in suspects:
                task.alone = True
            self._again(tasks)
            return []
        if not tasks:
            return []
        # Only the first call was running, so only this call may have killed the actor.
        first, *rest = tasks
        self._again(rest)
        first.copies -= 1
        blamed = not isinstance(error, MachineLost | MemoryLost)
        if blamed:
            first.losses += 1
            self._blame.failed(first, slot.lineage.number)
            slot.lineage.error = error
        else:
            first.machines += 1
        if first.ended or first.copies:
            return []
        often = first.machines >= _MACHINE_LOSSES * self._limits.attempts
        if often or self._blame.convicted(first, alone=self._dispatcher.alone(slot)):
            first.ended = True
            return [Failed(first, error)]
        if blamed:
            self._dispatcher.retries.append(first)
            self._judge([slot.lineage.number])
        else:
            self.add(first)
        return []

    def _device_lost(self, slot: ActorSlot, ref: Ref, error: DeviceLost) -> list[Done | Failed]:
        """Replace an actor whose device failed during the call `ref`, and repeat the actor's calls.

        The failure does not count as an attempt of the task. Returns the task if it has failed for good.
        """
        task, _ = self._dispatcher.end(slot, ref)
        self.failed_calls += 1
        waiting = [other for other, _ in slot.calls.values()]
        slot.calls.clear()
        slot.device = error.device
        slot.lineage.error = error
        self._blame.failed(task, error.device)
        task.devices[error.device] += 1
        if self._blame.broken(error.device, alone=self._only(error.device)):
            self._condemn(error.device, error)
        else:
            self._actors.restart(slot, error)
        self._again(waiting)
        if task.ended or task.copies:
            return []
        if self._blame.convicted(task, alone=self._only(error.device)):
            task.ended = True
            return [Failed(task, error)]
        self._dispatcher.retries.append(task)
        return []

    def _only(self, device: Device) -> bool:
        """Return whether no other device is known to work.

        Then no other device can show whether this device or the task is to blame.
        """
        others = {one.device for one in self._actors if one.up and one.role == WORKER} - {device}
        if not self._any_done:
            # No call has succeeded so far. If all devices fail, the devices are to blame, and not the tasks.
            others = {one for one in others if one is None or not self._blame.suspect(one)}
        return not others

    def _judge_devices(self) -> None:
        """Stop using devices that are to blame for failed tasks."""
        for device in self._blame.suspected_devices():
            if self._blame.broken(device, alone=self._only(device)):
                self._condemn(device, None)

    def _condemn(self, device: Device, error: DeviceLost | None) -> None:
        """Stop using a device for the rest of this launch, and give the tasks of its actors to other actors.

        `error`: the failure that led to this decision; None if earlier failures led to it.
        """
        self._blame.condemned(device)
        for gone in self._actors.quarantine(device, error):
            self._blame.forget(gone.lineage.number)
            self._again([task for task, _ in gone.calls.values()])
            gone.calls.clear()

    def _silent(self) -> list[Done | Failed]:
        """Treat actors as dead if their running call exceeds the time limit. Returns tasks that failed for good."""
        events, most = list[Done | Failed](), self._limits.call_seconds
        for slot in self._actors:
            if slot.calls and slot.up and self._clock() - slot.since > most:
                events += self._lost(slot, ActorLost(f"no answer within {most:g} s"))
        return events

    def _repeat_stragglers(self) -> None:
        """Start a second copy of each call that takes far too long, on an idle actor. The first answer counts."""
        workers = [slot for slot in self._actors if slot.up and slot.role == WORKER]
        idle = [slot for slot in workers if not slot.calls and not self._dispatcher.suspect(slot)]
        for slot in sorted((slot for slot in workers if slot.calls), key=lambda one: one.since):
            first, _ = next(iter(slot.calls.values()))
            if not self._dispatcher.durations.is_late(
                first, self._clock() - slot.since, self._limits.straggler_seconds
            ):
                continue
            # Calls that wait behind a late call are late too.
            for task in [task for task, _ in slot.calls.values() if not task.ended and task.copies == 1]:
                if idle:
                    other = idle.pop(0)
                    self.repeated += 1
                    repaired(
                        "straggler",
                        f"{task.description} takes far longer than similar calls, and is repeated on another actor",
                    )
                    self._dispatcher.call(other, task)
