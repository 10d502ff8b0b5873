"""Pure decisions: how many actors of each kind, and which piece of work goes to which slot. No Ray, no clock."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from study.errors import StudyError

Role = str
"""`source`, `target`, or `service <name>`: a remote service has one actor, so that one clock paces its requests."""

QUEUE = 2
"""Calls at most that an actor has in its queue, the running one included: the next is there when it ends one."""


@dataclass(frozen=True)
class Share:
    """What one actor reserves of a machine."""

    cpus: float
    gpus: float

    @property
    def device(self) -> str:
        return "cuda:0" if self.gpus else "cpu"


@dataclass(frozen=True)
class Crew:
    """How many actors of each role, and what each reserves."""

    sources: int
    targets: int
    source: Share
    target: Share
    services: tuple[str, ...] = ()

    @property
    def roles(self) -> list[Role]:
        """The role of every actor."""
        return [
            *["source"] * self.sources,
            *["target"] * self.targets,
            *(service_role(name) for name in self.services),
        ]

    def share(self, role: Role) -> Share:
        if role == "source":
            return self.source
        return self.target if role == "target" else Share(0, 0)


def service_role(model: str) -> Role:
    """The role of the actor that asks the remote service behind `model`."""
    return f"service {model}"


def service_of(role: Role) -> str | None:
    """The model whose service an actor of `role` asks, if it asks any."""
    return role.removeprefix("service ") if role.startswith("service ") else None


def crew(
    cpus: float,
    gpus: float,
    *,
    threads: int,
    sources: int | None,
    targets: int | None,
    services: Sequence[str] = (),
) -> Crew:
    """The actors for a cluster with `cpus` and `gpus`; `sources` and `targets` where the spec names them.

    Without GPUs a source actor takes `threads` cores; target actors, which work a few percent of the time, share
    them. With GPUs an eighth of the actors are targets, each on a GPU of its own where there are enough.
    Raises StudyError, with the numbers, where the named actors do not fit.
    """
    if gpus >= 1:
        for_targets = targets or max(1, int(gpus) // 8)
        for_sources = sources or max(1, int(gpus) - for_targets)
        together = math.ceil((for_sources + for_targets) / int(gpus))
        share = Share(cpus=0, gpus=math.floor(1e4 / together) / 1e4)
        return Crew(for_sources, for_targets, share, share, tuple(services))
    for_sources = sources or max(1, int(cpus) // threads)
    if for_sources * threads > cpus:
        raise StudyError(
            f"{for_sources} source actors with {threads} threads each need {for_sources * threads} cores, "
            f"and there are {cpus:g}",
            accepted=f"at most {int(cpus) // threads} source actors with {threads} threads each here",
            todo="lower run.actors.sources or numerics.threads, or give --address of a larger cluster",
        )
    for_targets = targets or max(1, for_sources // 8)
    return Crew(for_sources, for_targets, Share(threads, 0), Share(0, 0), tuple(services))


@dataclass(frozen=True)
class Work:
    """A piece of work that could start now: `cost` in any unit that is one for all work of its role."""

    id: int
    role: Role
    models: tuple[str, ...]
    cost: float


@dataclass(frozen=True)
class Slot:
    """An actor as the policy sees it; `holds` are its models, the least recently used first."""

    id: int
    role: Role
    holds: tuple[str, ...]
    queued: int
    capacity: int


@dataclass(frozen=True)
class Assignment:
    """Which work goes to which slot, and which models the slot lets go of first."""

    work: int
    slot: int
    drop: tuple[str, ...]


def assign(work: Iterable[Work], slots: Sequence[Slot]) -> list[Assignment]:
    """What to start now.

    Slots with the shortest queue choose first. A slot takes the longest piece among those whose models it holds, else
    the longest of all. A second call is queued only while there is more work than slots: at the end, a free
    slot is worth more than a full queue.
    """
    chosen: list[Assignment] = []
    for role in dict.fromkeys(slot.role for slot in slots):
        left = sorted((one for one in work if one.role == role), key=lambda one: (-one.cost, one.id))
        crew_slots = {slot.id: slot for slot in slots if slot.role == role}
        while left and crew_slots:
            slot = min(crew_slots.values(), key=lambda one: (one.queued, one.id))
            if slot.queued >= QUEUE or (slot.queued and len(left) <= len(crew_slots)):
                break
            pick = next((one for one in left if set(one.models) <= set(slot.holds)), left[0])
            left.remove(pick)
            drop, holds = _hold(slot, pick.models)
            chosen.append(Assignment(pick.id, slot.id, drop))
            crew_slots[slot.id] = Slot(slot.id, slot.role, holds, slot.queued + 1, slot.capacity)
    return chosen


def _hold(slot: Slot, models: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Models to drop so that `models` fit, and what the slot holds then."""
    others = [name for name in slot.holds if name not in models]
    surplus = max(0, len(others) + len(models) - slot.capacity)
    return tuple(others[:surplus]), (*others[surplus:], *models)


def after(slot: Slot, models: Sequence[str]) -> tuple[str, ...]:
    """What `slot` holds once it was given work that needs `models`."""
    return _hold(slot, models)[1]
