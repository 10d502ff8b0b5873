"""The actors that there are: started, replaced when they die, as many as the machines hold."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from actors import placement
from actors.backend import ActorLost, Backend, Call, MachineLost, Ref
from actors.backlog import Task
from actors.kit import Kit
from actors.placement import WORKER, Crew, Role
from study.arithmetic import Arithmetic
from study.errors import StudyError, first_line
from study.repairs import repaired

_LOOK_SECONDS = 10.0
"""Between two looks at how large the cluster is."""

_LOST_SECONDS = 40.0
"""How long all workers may be gone before the study ends: their machine may be coming back."""


@dataclass(frozen=True)
class Limits:
    """How often and how long.

    Attributes:
        attempts: Times that a task may fail, or take its actor with it.
        start_seconds: Until the first worker is up.
        call_seconds: Until an actor that does not answer is held to be dead.
        straggler_seconds: A call is made again on an idle actor once it runs this long, and three times as long as
            calls like it did.
    """

    attempts: int = 3
    start_seconds: float = 300.0
    call_seconds: float = 3600.0
    straggler_seconds: float = 30.0


@dataclass
class Slot:
    """The place of an actor."""

    id: int
    role: Role
    actor: Any
    hello: Ref | None
    """Until this is answered the actor is not up."""
    holds: tuple[str, ...] = ()
    calls: dict[Ref, tuple[Task, Call]] = field(default_factory=dict)
    since: float = 0.0
    """When its first call came to be first."""
    began: float = 0.0
    """When it was asked for, and, once it is up, when it came up."""
    busy: float = 0.0
    """Seconds that it was at calls."""
    proven: bool = False
    """Whether an actor of this slot has ever answered: one that never did is not worth replacing for ever."""

    @property
    def up(self) -> bool:
        return self.hello is None


class Slots:
    """All slots of a study."""

    def __init__(
        self,
        backend: Backend,
        crew: Crew,
        kit: Kit,
        *,
        limits: Limits,
        elastic: bool,
        clock: Callable[[], float],
    ) -> None:
        self._backend = backend
        self._crew = crew
        self._kit = kit
        self._limits = limits
        self._elastic = elastic
        self._clock = clock
        self._ids = itertools.count()
        self._slots: dict[int, Slot] = {}
        self._barren = 0
        self._looked = clock()
        self._nobody_since: float | None = None
        self.replaced = 0
        self.arithmetics: set[Arithmetic] = set()
        """What workers compute with, as those said that ever came up."""
        self.version = 0
        """Another number whenever actors are others, or hold other models."""

    def __iter__(self) -> Iterator[Slot]:
        return iter(list(self._slots.values()))

    def __getitem__(self, number: int) -> Slot:
        return self._slots[number]

    def __contains__(self, slot: Slot) -> bool:
        return slot.id in self._slots

    def start(self, check: Callable[[], None]) -> None:
        """Start the crew and wait until it is up, calling `check`, which may raise, every second.

        Workers that are not up in time may still come, if one of them and all services are. StudyError otherwise.
        """
        for role in self._crew.roles:
            self._new(role)
        deadline = self._clock() + self._limits.start_seconds
        while waiting := [slot for slot in self if not slot.up]:
            check()
            left = deadline - self._clock()
            if left <= 0:
                if all(slot.role == WORKER for slot in waiting) and len(waiting) < self._crew.workers:
                    return
                raise self._not_up(len(waiting), self._limits.start_seconds)
            refs = {slot.hello: slot for slot in waiting}
            for ref in self._backend.wait(list(refs), min(left, 1.0)):
                try:
                    said = self._backend.value(ref)
                except ActorLost as error:
                    # A machine that joins or leaves while the crew comes up takes nobody else's actors with it.
                    self.replace(refs[ref], error)
                    continue
                self.came_up(refs[ref], said)
                refs[ref].proven = True
            # A machine that has just died may have been counted: its actors will never come up.
            self._resize()

    def came_up(self, slot: Slot, said: object) -> None:
        """An actor can be given work from now on; workers have `said` what they compute with."""
        if isinstance(said, Arithmetic):
            self.arithmetics.add(said)
        slot.hello, slot.began = None, self._clock()

    def replace(self, slot: Slot, error: ActorLost) -> None:
        """A new actor in the place of a dead one. Raises StudyError where one after another dies unproven."""
        self._remove(slot)
        self._barren += not slot.proven and not isinstance(error, MachineLost)
        if self._barren > self._limits.attempts:
            raise StudyError(
                f"{self._barren} {slot.role} actors in a row died before they did anything: {first_line(error)}",
                todo="see that this project is installed on every machine of the cluster, and their memory and logs; "
                "what was published is kept",
                status=1,
            ) from error
        self.replaced += 1
        repaired("actor", f"{slot.role} {slot.id} has died, and another takes its place: {first_line(error)}")
        self._new(slot.role)

    def hold(self, slot: Slot, models: tuple[str, ...]) -> None:
        """An actor holds `models` from now on."""
        if set(models) != set(slot.holds):
            self.version += 1
        slot.holds = models

    def prove(self, slot: Slot) -> None:
        """An actor has answered."""
        slot.proven = True
        self._barren = 0

    def look(self) -> None:
        """Follow the machines that come and go. Raises StudyError where all workers are gone, and none comes back."""
        self._resize()
        if any(slot.role == WORKER and slot.up for slot in self):
            self._nobody_since = None
            return
        now = self._clock()
        self._nobody_since = now if self._nobody_since is None else self._nobody_since
        patience = min(_LOST_SECONDS, self._limits.start_seconds)
        if now - self._nobody_since > patience:
            error = self._not_up(self._crew.workers, patience)
            error.what = f"all workers are gone: {error.what}"
            error.todo = "launch again where there is a machine for them; what was published is kept"
            error.status = 1
            raise error

    def stop(self) -> None:
        """End all actors. What they were at is forgotten."""
        for slot in self:
            self._backend.stop(slot.actor)
        self._slots.clear()

    def _resize(self) -> None:
        """Use machines that have joined; wait for no more actors than what is left of the machines can hold."""
        now = self._clock()
        if not self._elastic or now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        wanted = placement.workers(self._backend.machines(), self._crew.share)
        workers = [slot for slot in self if slot.role == WORKER]
        for _ in range(wanted - len(workers)):
            self._new(WORKER)
        waiting = [slot for slot in workers if not slot.up]
        for slot in waiting[: max(0, len(workers) - max(wanted, 1))]:
            self._remove(slot)

    def _remove(self, slot: Slot) -> None:
        self.version += 1
        self._backend.stop(slot.actor)
        del self._slots[slot.id]

    def _new(self, role: Role) -> None:
        self.version += 1
        number = next(self._ids)
        actor = self._backend.start(role, self._crew.share_of(role), self._kit)
        self._slots[number] = Slot(number, role, actor, self._backend.hello(actor), began=self._clock())

    def _not_up(self, missing: int, seconds: float) -> StudyError:
        machines, crew = self._backend.machines(), self._crew
        cpus, gpus = sum(one.cpus for one in machines), sum(one.gpus for one in machines)
        return StudyError(
            f"{missing} of {len(crew.roles)} actors did not start within {seconds:g} s",
            accepted=f"a worker takes {_amount(crew.share)}; "
            f"the cluster has {cpus:g} cores and {gpus:g} GPUs, in use by others or not",
            todo="lower run.actors, raise run.start_seconds, or use another cluster",
        )


def _amount(share: placement.Share) -> str:
    memory = f" and {placement.gib(share.memory)}" if share.memory else ""
    return (f"{share.gpus:g} GPUs" if share.gpus else f"{share.cpus:g} cores") + memory
