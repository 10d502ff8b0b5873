"""Starts the actors of a study, replaces actors that die or fail, and adapts to machines that join and leave."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from actors.backends.interface import (
    ActorInfo,
    ActorLost,
    Backend,
    CallFailed,
    Device,
    DeviceLost,
    MachineLost,
    MemoryLost,
)
from actors.resources import placement
from actors.resources.placement import WORKER, Role, WorkerPool
from actors.scheduling.actor_slot import ActorSlot, Lineage
from actors.scheduling.limits import Limits
from actors.scheduling.memory_shortage import MemoryShortage
from actors.workers.worker_config import WorkerConfig
from study.errors import StudyError, first_line
from study.events.repairs import repaired
from study.reproducibility.float_environment import Arithmetic

_RESIZE_SECONDS = 10.0
"""Seconds between two adaptations of the number of workers to the machines."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Delayed:
    """An actor that starts at the time `due`, in the place of another. `why`: the line for the user at its start."""

    due: float
    role: Role
    lineage: Lineage
    why: str


class ActorSupervisor:
    """Starts, replaces and ends all actors of a study. Iteration yields the present actors."""

    def __init__(
        self,
        backend: Backend,
        pool: WorkerPool,
        config: WorkerConfig,
        *,
        limits: Limits,
        elastic: bool,
        clock: Callable[[], float],
        say: Callable[[str], None],
    ) -> None:
        self._say = say
        self._backend = backend
        self._pool = pool
        self._config = config
        self._limits = limits
        self._elastic = elastic
        self._clock = clock
        self._ids = itertools.count()
        self._slots: dict[int, ActorSlot] = {}
        self._unproven_deaths = 0
        self._resized = clock()
        self._no_worker_since: float | None = None
        self._has_room = True
        self._machines_lost = False
        self._set_aside_for: dict[Device, str] = {}
        """The devices that are set aside (not used any more in this launch), each with the reason."""
        self._last_failures: dict[Device, str] = {}
        self._shortage = MemoryShortage(limits.memory_seconds)
        self._delayed: list[_Delayed] = []
        self._given_up = 0
        self._small: set[Device | None] = set()
        self.replaced = 0
        self.met: Callable[[Arithmetic], None] = lambda arithmetic: None
        """The function that is called with the arithmetic of a new worker, if no earlier worker had the same
        arithmetic."""
        self.arithmetics: set[Arithmetic] = set()
        """The arithmetic of all workers that have ever come up: what determines how they round floats."""
        self.version = 0
        """A number that grows whenever an actor starts, ends or comes up."""
        self.models_version = 0
        """A number that grows whenever an actor holds other models."""

    def __iter__(self) -> Iterator[ActorSlot]:
        return iter(list(self._slots.values()))

    def __getitem__(self, number: int) -> ActorSlot:
        return self._slots[number]

    def __contains__(self, slot: ActorSlot) -> bool:
        return slot.id in self._slots

    def of_lineage(self, number: int) -> ActorSlot | None:
        """Return the present actor of the lineage (an actor and its replacements) with this number.

        Returns None while the next actor of the lineage waits for memory, or if the lineage was given up.
        """
        return next((slot for slot in self if slot.lineage.number == number), None)

    def start(self, check: Callable[[], None]) -> None:
        """Start all actors and wait until they are up.

        After `start_seconds`, this returns if at least one worker and all services are up, and otherwise raises
        StudyError. If memory is short then, the wait lasts until `memory_seconds`. Also raises StudyError if several
        actors in a row die or cannot be started. `check` is called about once a second during the wait, and may raise.
        """
        for role in self._pool.roles:
            self._new(role)
        deadline = self._clock() + self._limits.start_seconds
        while (waiting := [slot for slot in self if not slot.up]) or self._delayed:
            check()
            left = max(deadline, self._shortage.deadline or deadline) - self._clock()
            missing = [*(slot.role for slot in waiting), *(one.role for one in self._delayed)]
            if left <= 0:
                if all(role == WORKER for role in missing) and len(missing) < self._pool.workers:
                    return
                if self._shortage.deadline is not None:
                    raise self._shortage.error()
                raise placement.not_up(self._backend.machines(), self._pool, len(missing), self._limits.start_seconds)
            refs = {slot.hello: slot for slot in waiting}
            for ref in self._backend.wait(list(refs), min(left, 1.0)):
                if refs[ref] in self:
                    self.greet(refs[ref])
                    refs[ref].proven = refs[ref].up
            self._start_delayed()
            # If a machine has left, the actors that were to start there never come up.
            self._resize()

    def greet(self, slot: ActorSlot) -> None:
        """Read the first answer of an actor. If it is an error, replace the actor, or use one worker fewer.

        Without an error, the actor is up from now on. But if its device is set aside, the actor gets no work.
        """
        try:
            answer = self._backend.value(slot.hello)
        except ActorLost as error:
            self.replace(slot, error)
        except CallFailed as error:
            self._not_started(slot, error)
        else:
            if isinstance(answer, ActorInfo):
                slot.device, slot.capacity = answer.device, self._pool.capacity_on(answer.gpu_memory)
                memory, answer = answer.gpu_memory, answer.answer
                if slot.device in self._set_aside_for:
                    self._park(slot, slot.device)
                    return
                self._check_memory(slot, memory)
            if isinstance(answer, Arithmetic) and answer not in self.arithmetics:
                self.arithmetics.add(answer)
                self.met(answer)
            slot.hello, slot.began, slot.lineage.starts = None, self._clock(), 0
            self.version += 1

    def replace(self, slot: ActorSlot, error: ActorLost) -> None:
        """Replace a dead actor.

        If its replacements die again and again while they start, and other workers are up, one worker fewer is used
        instead. Raises StudyError if several actors in a row die before they answer a call, or if memory stays short.
        """
        self._remove(slot)
        self._machines_lost = self._machines_lost or isinstance(error, MachineLost)
        if isinstance(error, MemoryLost):
            self.replaced += 1
            self._wait_for_memory(slot, error)
            return
        if not slot.proven and not isinstance(error, MachineLost):
            self._unproven_deaths += 1
            slot.lineage.starts += not slot.up
        if self._unproven_deaths > self._limits.attempts:
            raise StudyError(
                f"{self._unproven_deaths} {slot.role} actors in a row died before they answered: {first_line(error)}",
                todo="check Ray's logs and the free memory on the machines; published results are kept",
                status=1,
            ) from error
        if slot.lineage.starts > self._limits.attempts and self._others(slot):
            self._give_up(f"a worker died {slot.lineage.starts} times while it started: {first_line(error)}", WORKER)
            return
        self.replaced += 1
        repaired("actor", f"{slot.role} {slot.id} has died, and another takes its place: {first_line(error)}")
        self._new(slot.role, slot.lineage)

    def restart(self, slot: ActorSlot, error: DeviceLost) -> None:
        """Replace an actor whose device failed. A new process may be able to use the device again."""
        self._last_failures[error.device] = error.what
        slot.lineage.device = error.device
        self._remove(slot)
        self.replaced += 1
        repaired("actor", f"{slot.role} {slot.id} has ended, and another takes its place: {first_line(error)}")
        self._new(slot.role, slot.lineage)

    def quarantine(self, device: Device, error: DeviceLost | None) -> list[ActorSlot]:
        """Stop using a device for the rest of this launch. Returns the slots of its actors, which no longer exist.

        `error`: the failure that led to this decision. If it is None, messages name the last failure of the device.
        Raises StudyError if no other device is left, and no lost machine may come back.
        """
        cause = self._last_failures[device] if error is None else error.what
        gone = [slot for slot in self if slot.device == device]
        self._stop_using(device, gone, cause, f"{device} fails under one process after the other ({cause})")
        return gone

    def replace_failing(self, slot: ActorSlot) -> list[ActorSlot]:
        """Replace an actor that is to blame for failed calls. Returns the slots that no longer exist.

        If the actor is a worker, and the actor before it was to blame too, the device is set aside instead (not used
        any more in this launch), as in `_set_aside`.
        """
        lineage, where = slot.lineage, slot.device or f"{slot.role} {slot.id}"
        lineage.strikes += 1
        cause = first_line(lineage.error) if lineage.error else "unknown error"
        why = f"{where} fails several calls in a row ({cause})"
        if lineage.strikes == 1 or slot.role != WORKER:
            self._say(f"{why}: its actor is replaced")
            self._remove(slot)
            self.replaced += 1
            self._new(slot.role, lineage)
            return [slot]
        return self._set_aside(slot, f"{why}, and so does a new actor", cause)

    def _not_started(self, slot: ActorSlot, error: CallFailed) -> None:
        """Handle an actor that could not be started: start another actor, or set its device aside.

        If other workers are up, a failed actor is replaced once. If the replacement cannot be started either, its
        device is set aside (not used any more). But if other workers are up on this device, it stays in use, with one
        worker fewer. Raises StudyError if several actors in a row could not be started, and this actor is a service,
        or no other worker is up or may come up.
        """
        _log.error("%s cannot be started: %s\n%s", slot.role, error, error.traceback)
        slot.device = error.device
        slot.lineage.starts += 1
        if slot.device is not None and slot.device in self._set_aside_for:
            self._park(slot, slot.device)
            return
        self._unproven_deaths += 1
        where = str(error.device) if error.device else None
        others = self._others(slot)
        if not others:
            # Actors that start for the first time on other machines may still come up.
            coming = any(one.role == slot.role == WORKER and not one.up and not one.lineage.starts for one in self)
            if self._unproven_deaths > self._limits.attempts and not coming:
                raise StudyError(
                    f"{self._unproven_deaths} {slot.role} actors in a row could not be started: {error}",
                    where="; ".join([*self._reasons(), *([where] if where else [])]) or None,
                    todo="fix the cause of the error, then launch again; study.log has the full traceback",
                    status=1,
                )
        elif slot.lineage.starts > 1:
            why = f"no worker can be started on {where or 'a machine'} ({error})"
            if any(other.device == slot.device for other in others):
                # Other workers are up on the device. So the device works, but a further worker does not fit.
                self._remove(slot)
                self._give_up(why, WORKER)
            else:
                self._set_aside(slot, why, str(error))
            return
        self._remove(slot)
        self.replaced += 1
        repaired("actor", f"{slot.role} {slot.id} could not be started, and another is tried: {first_line(error)}")
        self._new(slot.role, slot.lineage)

    def _check_memory(self, slot: ActorSlot, gpu_memory: float | None) -> None:
        """Warn if a GPU, or a MIG part of a GPU, has too little memory for the largest call.

        On such a GPU, calls halve their passes until a pass fits. `gpu_memory`: bytes of the GPU; None if unknown.
        """
        lack = placement.lacking(self._pool, gpu_memory)
        if lack is not None and slot.device not in self._small:
            self._small.add(slot.device)
            self._say(f"{slot.device} is too small: {lack}; passes with too many images are halved there")

    def _others(self, slot: ActorSlot) -> list[ActorSlot]:
        """Return the other workers that are up. The list is empty if `slot` is not a worker."""
        return [other for other in self if other is not slot and other.up and other.role == slot.role == WORKER]

    def _set_aside(self, slot: ActorSlot, why: str, cause: str) -> list[ActorSlot]:
        """Stop using the device of an actor. Returns the slots that no longer exist.

        If the device is not known, or if calls of other actors have succeeded on it, only this actor ends. `why` and
        `cause` are texts for messages: the reason in full, and the error.
        """
        device, gone = slot.device, [slot]
        on_it = [other for other in self if other is not slot and device is not None and other.device == device]
        if device is None or any(other.done for other in on_it):
            self._remove(slot)
            self._give_up(why, WORKER)
            return gone
        gone += on_it
        self._stop_using(device, gone, cause, why)
        return gone

    def _stop_using(self, device: Device, gone: Sequence[ActorSlot], cause: str, why: str) -> None:
        """Stop using `device` for the rest of this launch. The same number of workers starts elsewhere, if they fit.

        `gone`: the slots on the device, whose actors get no more work. `cause`: the error, as a text for messages.
        `why`: the whole reason, as a text for messages. Raises StudyError as `_check_any_left` does.
        """
        self._set_aside_for[device] = cause
        self._backend.set_aside(device, [one.actor for one in gone])
        for one in gone:
            self._forget(one)
        self._fill(len(gone))
        self._say(f"{why}: {device} is set aside, {self._remaining(WORKER)}")
        self._check_any_left()

    def _park(self, slot: ActorSlot, device: Device) -> None:
        """Give no work to a new actor that was started on a device which is set aside.

        On a GPU, the actor stays alive, so that the GPU stays reserved. Another worker is started elsewhere, if it fits
        there.
        """
        self._backend.set_aside(device, [slot.actor])
        self._forget(slot)
        self._fill(1)
        self._check_any_left()

    def _fill(self, most: int) -> None:
        """Start up to `most` further workers, as long as they fit on the machines."""
        fitting = placement.fitting_workers(self._backend.machines(), self._pool.resources)
        for _ in range(min(most, fitting - self._count(WORKER))):
            self._new(WORKER)

    def _check_any_left(self) -> None:
        """Raise StudyError if no worker is left and no lost machine may come back."""
        if self._count(WORKER) or self._machines_lost:
            return
        raise StudyError(
            "no usable device is left: on each device, calls failed or no worker could be started",
            where="; ".join(self._reasons()),
            todo="check the devices (for a GPU: nvidia-smi, and the kernel's log for Xid messages) and the code that "
            "runs on them, then launch again: published results are kept",
            status=1,
        )

    def _reasons(self) -> list[str]:
        """Return a text for each device that is set aside, with the reason."""
        return [f"{device} ({cause})" for device, cause in self._set_aside_for.items()]

    def _give_up(self, why: str, role: Role) -> None:
        """Use one worker fewer from now on, and tell the user the reason `why`."""
        self._given_up += 1
        self._say(f"{why}: {self._remaining(role)}")

    def _count(self, role: Role) -> int:
        return sum(one.role == role for one in self) + sum(one.role == role for one in self._delayed)

    def _remaining(self, role: Role) -> str:
        # A worker that starts on a device that is set aside will get no work, so it is not counted.
        lost = sum(not one.up and one.lineage.device in self._set_aside_for for one in self)
        workers = self._count(role) - lost
        return f"{workers} worker{'s' * (workers != 1)} from now on"

    def _wait_for_memory(self, slot: ActorSlot, error: MemoryLost) -> None:
        """Plan the replacement of an actor that was killed for lack of memory: another actor starts after a pause.

        Raises StudyError if memory has been short for too long.
        """
        now = self._clock()
        if self._shortage.began(now, error):
            self._say(
                f"{error}; another actor starts after a pause, and the study ends if memory stays short for "
                f"{self._limits.memory_seconds:g} s"
            )
        if self._shortage.is_over_limit(now):
            raise self._shortage.error() from error
        why = f"{slot.role} {slot.id} has died, and another takes its place: {first_line(error)}"
        self._delayed.append(_Delayed(now + self._shortage.pause(now), slot.role, slot.lineage, why))

    def _start_delayed(self) -> None:
        """Start the actors whose pause is over, and announce each of them."""
        now = self._clock()
        due = [one for one in self._delayed if one.due <= now]
        self._delayed = [one for one in self._delayed if one.due > now]
        for one in due:
            repaired("actor", one.why)
            self._new(one.role, one.lineage)

    def hold(self, slot: ActorSlot, models: tuple[str, ...]) -> None:
        """Record that an actor holds `models` from now on."""
        if set(models) != set(slot.holds):
            self.models_version += 1
        slot.holds = models

    def prove(self, slot: ActorSlot) -> None:
        """Record that an actor has answered a call. The answer shows that memory is no longer short, if it was."""
        slot.proven = True
        self._unproven_deaths = 0
        self._shortage.end()

    def succeeded(self, slot: ActorSlot) -> None:
        """Record that a call of an actor succeeded."""
        slot.done += 1
        slot.lineage.strikes = 0

    def follow_machines(self) -> None:
        """Start actors whose pause is over, and adapt the number of workers to machines that have joined or left.

        Raises StudyError if all workers are gone, and no worker comes up in time.
        """
        self._start_delayed()
        self._resize()
        if any(slot.role == WORKER and slot.up for slot in self):
            self._no_worker_since, self._has_room = None, True
            return
        now = self._clock()
        if self._no_worker_since is None:
            self._no_worker_since = now
        if self._shortage.is_over_limit(now):
            raise self._shortage.error()
        if self._shortage.deadline is not None:
            return
        # If workers fit on a machine, wait long, because they may take long to start. Otherwise wait for a shorter
        # time.
        machines = self._backend.machines()
        has_room = placement.fitting_workers(machines, self._pool.resources) > 0
        if has_room != self._has_room:
            self._no_worker_since, self._has_room = now, has_room
            if not has_room:
                self._say(
                    "all workers are gone, and no machine can hold a new one: waiting up to "
                    f"{self._limits.lost_seconds:g} s (run.lost_seconds) for a machine"
                )
        if has_room and not self._count(WORKER):
            self._fill(self._pool.workers)
        patience = self._limits.start_seconds if has_room else self._limits.lost_seconds
        if now - self._no_worker_since > patience:
            error = placement.not_up(machines, self._pool, self._pool.workers, patience)
            error.what = f"all workers are gone: {error.what}"
            error.where = "; ".join(self._reasons()) or None
            again, limit = (
                ("launch again once workers can start on the machines", "run.start_seconds")
                if has_room
                else ("launch again once there is a machine for the workers", "run.lost_seconds")
            )
            error.todo = f"{again}; to wait longer, raise {limit}; published results are kept"
            error.status = 1
            raise error

    def stop(self) -> None:
        """End all actors and forget their calls."""
        for slot in self:
            self._backend.stop(slot.actor)
        self._slots.clear()
        self._delayed.clear()

    def _resize(self) -> None:
        """Start workers on new machines. Remove workers that are not up yet and do not fit on the machines any more."""
        now = self._clock()
        if not self._elastic or now - self._resized < _RESIZE_SECONDS:
            return
        self._resized = now
        wanted = placement.fitting_workers(self._backend.machines(), self._pool.resources) - self._given_up
        wanted = min(wanted, self._pool.options.workers or wanted)
        workers = [slot for slot in self if slot.role == WORKER]
        delayed = sum(one.role == WORKER for one in self._delayed)
        for _ in range(wanted - len(workers) - delayed):
            self._new(WORKER)
        waiting = [slot for slot in workers if not slot.up]
        for slot in waiting[: max(0, len(workers) - max(wanted, 1))]:
            self._remove(slot)

    def _remove(self, slot: ActorSlot) -> None:
        self._backend.stop(slot.actor)
        self._forget(slot)

    def _forget(self, slot: ActorSlot) -> None:
        self.version += 1
        del self._slots[slot.id]

    def _new(self, role: Role, lineage: Lineage | None = None) -> None:
        self.version += 1
        number = next(self._ids)
        actor = self._backend.start(role, self._pool.resources_of(role), self._config)
        hello, began = self._backend.hello(actor), self._clock()
        self._slots[number] = ActorSlot(number, role, actor, hello, began=began, lineage=lineage or Lineage(number))
