"""The actors that there are: started, replaced when they die, as many as the machines hold."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from actors.backends.interface import ActorLost, Backend, CallFailed, Here, MachineLost, MemoryLost
from actors.resources import placement
from actors.resources.memory_shortage import Shortage
from actors.resources.placement import WORKER, Role, WorkerPool
from actors.scheduling.slot import ActorLine, ActorSlot
from actors.workers.worker_config import WorkerConfig
from study.errors import StudyError, first_line
from study.events.repairs import repaired
from study.reproducibility.float_environment import Arithmetic

_LOOK_SECONDS = 10.0
"""Between two looks at how large the cluster is."""

_LOST_SECONDS = 40.0
"""How long all workers and all machines for them may be gone before the study ends: a machine may be coming back."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """How often and how long.

    Attributes:
        attempts: Times that a task may fail, or take its actor with it.
        start_seconds: Until the first worker is up, or, where all died, the first of those in their place.
        memory_seconds: How long memory may be short on the machines, with no call answered, before the study ends.
        call_seconds: Until an actor that does not answer is held to be dead.
        straggler_seconds: A call is made again on an idle actor once it runs this long, and three times as long as
            calls like it did.
    """

    attempts: int = 3
    start_seconds: float = 300.0
    call_seconds: float = 3600.0
    straggler_seconds: float = 30.0
    memory_seconds: float = 600.0


class Slots:
    """All slots of a study."""

    def __init__(
        self,
        backend: Backend,
        crew: WorkerPool,
        kit: WorkerConfig,
        *,
        limits: Limits,
        elastic: bool,
        clock: Callable[[], float],
        say: Callable[[str], None],
    ) -> None:
        self._say = say
        self._backend = backend
        self._crew = crew
        self._kit = kit
        self._limits = limits
        self._elastic = elastic
        self._clock = clock
        self._ids = itertools.count()
        self._slots: dict[int, ActorSlot] = {}
        self._barren = 0
        self._looked = clock()
        self._nobody_since: float | None = None
        self._short = Shortage(limits.memory_seconds)
        self._later: list[tuple[float, Role, ActorLine]] = []
        self._given_up = 0
        self.replaced = 0
        self.arithmetics: set[Arithmetic] = set()
        """What workers compute with, as those said that ever came up."""
        self.version = 0
        """Another number whenever actors are others, or hold other models."""

    def __iter__(self) -> Iterator[ActorSlot]:
        return iter(list(self._slots.values()))

    def __getitem__(self, number: int) -> ActorSlot:
        return self._slots[number]

    def __contains__(self, slot: ActorSlot) -> bool:
        return slot.id in self._slots

    def of_line(self, number: int) -> ActorSlot | None:
        """The slot that a line of actors has now; None where it waits for memory, or was given up."""
        return next((slot for slot in self if slot.line.number == number), None)

    def start(self, check: Callable[[], None]) -> None:
        """Start the crew and wait until it is up, calling `check`, which may raise, every second.

        Workers that are not up in time may still come, if one of them and all services are. StudyError otherwise.
        """
        for role in self._crew.roles:
            self._new(role)
        deadline = self._clock() + self._limits.start_seconds
        while (waiting := [slot for slot in self if not slot.up]) or self._later:
            check()
            left = max(deadline, self._short.until or deadline) - self._clock()
            missing = [*(slot.role for slot in waiting), *(role for _, role, _ in self._later)]
            if left <= 0:
                if all(role == WORKER for role in missing) and len(missing) < self._crew.workers:
                    return
                if self._short.until is not None:
                    raise self._short.error()
                raise placement.not_up(self._backend.machines(), self._crew, len(missing), self._limits.start_seconds)
            refs = {slot.hello: slot for slot in waiting}
            for ref in self._backend.wait(list(refs), min(left, 1.0)):
                if refs[ref] in self:
                    self.greet(refs[ref])
                    refs[ref].proven = refs[ref].up
            self._begin_due()
            # A machine that has just died may have been counted: its actors will never come up.
            self._resize()

    def greet(self, slot: ActorSlot) -> None:
        """Hear what an actor says first: from now on it can be given work, or another starts in its place."""
        try:
            said = self._backend.value(slot.hello)
        except ActorLost as error:
            # A machine that joins or leaves while the crew comes up takes nobody else's actors with it.
            self.replace(slot, error)
        except CallFailed as error:
            self._not_started(slot, error)
        else:
            self.came_up(slot, said)

    def came_up(self, slot: ActorSlot, said: object) -> None:
        """An actor can be given work from now on; workers have `said` what they compute on."""
        if isinstance(said, Here):
            slot.device, said = said.device, said.said
        if isinstance(said, Arithmetic):
            self.arithmetics.add(said)
        slot.hello, slot.began, slot.line.starts = None, self._clock(), 0

    def replace(self, slot: ActorSlot, error: ActorLost) -> None:
        """A new actor in the place of a dead one. Raises StudyError where one after another dies unproven, or memory
        stays short."""
        self._remove(slot)
        if isinstance(error, MemoryLost):
            self.replaced += 1
            self._wait_for_memory(slot, error)
            return
        if not slot.proven and not isinstance(error, MachineLost):
            self._barren += 1
            slot.line.starts += not slot.up
        if self._barren > self._limits.attempts:
            raise StudyError(
                f"{self._barren} {slot.role} actors in a row died before they did anything: {first_line(error)}",
                todo="see the logs of Ray on the machines, and their memory; what was published is kept",
                status=1,
            ) from error
        if slot.line.starts > self._limits.attempts and self._others(slot):
            self._give_up(f"a worker died {slot.line.starts} times while it started: {first_line(error)}", WORKER)
            return
        self.replaced += 1
        repaired("actor", f"{slot.role} {slot.id} has died, and another takes its place: {first_line(error)}")
        self._new(slot.role, slot.line)

    def replace_failing(self, slot: ActorSlot) -> list[ActorSlot]:
        """Another actor in the place of one that fails what others carry out; where that fails too, its device is set
        aside. Returns the slots that are no more."""
        line, where = slot.line, slot.device or f"{slot.role} {slot.id}"
        line.strikes += 1
        why = f"{where} fails calls that others carry out ({first_line(line.error) if line.error else '?'})"
        if line.strikes == 1 or slot.role != WORKER:
            self._say(f"{why}: its actor is replaced")
            self._remove(slot)
            self.replaced += 1
            self._new(slot.role, line)
            return [slot]
        return self._set_aside(slot, f"{why}, a new actor too")

    def _not_started(self, slot: ActorSlot, error: CallFailed) -> None:
        """An actor could not be made: another is tried, then its device is set aside, if there are others that work."""
        _log.error("%s cannot be started: %s\n%s", slot.role, error, error.traceback)
        slot.device = error.device
        slot.line.starts += 1
        self._barren += 1
        where = str(error.device) if error.device else None
        if not self._others(slot):
            if self._barren > self._limits.attempts:
                raise StudyError(
                    f"{slot.role} actors cannot be started, {self._barren} in a row: {error}",
                    where=where,
                    todo="mend that on the machine, then launch again; the whole error stands in study.log",
                    status=1,
                )
        elif slot.line.starts > 1:
            self._set_aside(slot, f"no worker can be started on {where or 'a machine'} ({error})")
            return
        self._remove(slot)
        self.replaced += 1
        repaired("actor", f"{slot.role} {slot.id} cannot be started, and another is tried: {first_line(error)}")
        self._new(slot.role, slot.line)

    def _others(self, slot: ActorSlot) -> list[ActorSlot]:
        """Other workers that are up."""
        return [other for other in self if other is not slot and other.up and other.role == slot.role == WORKER]

    def _set_aside(self, slot: ActorSlot, why: str) -> list[ActorSlot]:
        """Use a device no more: none of its actors, unless others have succeeded on it. Returns the slots that are no
        more."""
        device, gone = slot.device, [slot]
        on_it = [other for other in self if other is not slot and device is not None and other.device == device]
        if device is None or any(other.done for other in on_it):
            self._remove(slot)
            self._give_up(why, WORKER)
            return gone
        gone += on_it
        self._backend.set_aside(device, [one.actor for one in gone])
        for one in gone:
            self._forget(one)
        elsewhere = placement.workers(self._backend.machines(), self._crew.share)
        workers = sum(one.role == WORKER for one in self) + len(self._later)
        for _ in range(min(len(gone), elsewhere - workers)):
            self._new(WORKER)
        workers = sum(one.role == WORKER for one in self) + len(self._later)
        self._say(f"{why}: {device} is set aside, {workers} worker{'s' * (workers != 1)} from now on")
        return gone

    def _give_up(self, why: str, role: Role) -> None:
        """One worker fewer from now on."""
        self._given_up += 1
        workers = sum(one.role == role for one in self) + len(self._later)
        self._say(f"{why}: {workers} worker{'s' * (workers != 1)} from now on")

    def _wait_for_memory(self, slot: ActorSlot, error: MemoryLost) -> None:
        """Another actor in the place of one that was ended because memory ran out, once some time has passed."""
        now = self._clock()
        if self._short.began(now, error):
            self._say(f"{error}; its place is filled again once memory is free, for {self._limits.memory_seconds:g} s")
        if self._short.over(now):
            raise self._short.error() from error
        self._later.append((now + self._short.pause(now), slot.role, slot.line))

    def _begin_due(self) -> None:
        due = [one for one in self._later if one[0] <= self._clock()]
        self._later = [one for one in self._later if one not in due]
        for _, role, line in due:
            self._new(role, line)

    def hold(self, slot: ActorSlot, models: tuple[str, ...]) -> None:
        """An actor holds `models` from now on."""
        if set(models) != set(slot.holds):
            self.version += 1
        slot.holds = models

    def prove(self, slot: ActorSlot) -> None:
        """An actor has answered."""
        slot.proven = True
        self._barren = 0
        self._short.end()

    def succeeded(self, slot: ActorSlot) -> None:
        """An actor has carried out a call."""
        slot.done += 1
        slot.line.strikes = 0

    def look(self) -> None:
        """Follow the machines that come and go. Raises StudyError where all workers are gone, and none comes back."""
        self._begin_due()
        self._resize()
        if any(slot.role == WORKER and slot.up for slot in self):
            self._nobody_since = None
            return
        now = self._clock()
        self._nobody_since = now if self._nobody_since is None else self._nobody_since
        if self._short.over(now):
            raise self._short.error()
        gone = now - self._nobody_since
        if self._short.until is not None or gone <= min(_LOST_SECONDS, self._limits.start_seconds):
            return
        # Those that are starting may take long; only for machines that are gone is there nothing to wait for.
        there = placement.workers(self._backend.machines(), self._crew.share)
        patience = self._limits.start_seconds if there else _LOST_SECONDS
        if gone > patience:
            error = placement.not_up(self._backend.machines(), self._crew, self._crew.workers, patience)
            error.what = f"all workers are gone: {error.what}"
            error.todo = "launch again where there is a machine for them; what was published is kept"
            error.status = 1
            raise error

    def stop(self) -> None:
        """End all actors. What they were at is forgotten."""
        for slot in self:
            self._backend.stop(slot.actor)
        self._slots.clear()
        self._later.clear()

    def _resize(self) -> None:
        """Use machines that have joined; wait for no more actors than what is left of the machines can hold."""
        now = self._clock()
        if not self._elastic or now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        wanted = placement.workers(self._backend.machines(), self._crew.share) - self._given_up
        workers = [slot for slot in self if slot.role == WORKER]
        for _ in range(wanted - len(workers) - len(self._later)):
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

    def _new(self, role: Role, line: ActorLine | None = None) -> None:
        self.version += 1
        number = next(self._ids)
        actor = self._backend.start(role, self._crew.share_of(role), self._kit)
        hello, began = self._backend.hello(actor), self._clock()
        self._slots[number] = ActorSlot(number, role, actor, hello, began=began, line=line or ActorLine(number))
