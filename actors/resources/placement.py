"""Who works where: roles, how many workers the machines have room for, and what each of them reserves. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from study.errors import StudyError
from study.models.memory_needs import Needs

Role = str
"""`worker`, or `service <name>`: a remote service has one actor, so that one clock paces its requests."""

WORKER: Role = "worker"

_PROCESS = 700 * 2**20
"""Bytes of a worker before it holds a model: Python, torch, and on a GPU the context."""

_USABLE = 0.9
"""Share of the memory that is planned with: allocators leave gaps."""

_MOST_ON_A_GPU = 2
"""Workers on one GPU unless the spec says otherwise: while one is busy on the processor, the other has the GPU."""

MOST_MODELS = 16
"""Models that a worker holds where nobody knows how much memory there is."""


@dataclass(frozen=True)
class Machine:
    """What one machine has: cores, GPUs, and bytes of memory, of its own, of each GPU and of its object store; None
    where nobody knows."""

    cpus: float
    gpus: float = 0.0
    memory: float | None = None
    gpu_memory: float | None = None
    store: float | None = None


@dataclass(frozen=True)
class ResourceRequest:
    """What one actor reserves of a machine; memory in bytes."""

    cpus: float
    gpus: float
    memory: float = 0.0

    @property
    def device(self) -> str:
        return "cuda:0" if self.gpus else "cpu"


@dataclass(frozen=True)
class MachineRoom:
    """How much an actor may hold, and how much of that each model takes: bytes, or 1 where sizes are not known."""

    most: float
    sizes: Mapping[str, float] = field(default_factory=dict)

    def of(self, models: Iterable[str]) -> float:
        return sum(self.sizes.get(name, 1.0) for name in models)


@dataclass(frozen=True)
class WorkerPool:
    """How many workers, what each reserves and may hold, and the models whose services are asked."""

    workers: int
    share: ResourceRequest
    services: tuple[str, ...] = ()
    room: MachineRoom = MachineRoom(MOST_MODELS)

    @property
    def roles(self) -> list[Role]:
        """The role of every actor."""
        return [*[WORKER] * self.workers, *(service_role(name) for name in self.services)]

    def share_of(self, role: Role) -> ResourceRequest:
        return self.share if role == WORKER else ResourceRequest(0, 0)


@dataclass(frozen=True)
class Wish:
    """What a spec says about workers; None: as the machines have room.

    Attributes:
        threads: Of each worker on a processor.
        workers: How many in all.
        per_gpu: How many on one GPU.
        models: How many models each holds at most.
        memory: Bytes that each takes, in place of what its models were estimated to need.
    """

    threads: int = 1
    workers: int | None = None
    per_gpu: int | None = None
    models: int | None = None
    memory: float | None = None


def service_role(model: str) -> Role:
    """The role of the actor that asks the remote service behind `model`."""
    return f"service {model}"


def service_of(role: Role) -> str | None:
    """The model whose service an actor of `role` asks, if it asks any."""
    return role.removeprefix("service ") if role.startswith("service ") else None


def crew(machines: Sequence[Machine], needs: Needs | None, wish: Wish, services: Sequence[str] = ()) -> WorkerPool:
    """The actors for `machines`. `needs` are what models take, None where nobody knows.

    A worker crafts and predicts, so that no slot waits for the other kind of work. Where there are GPUs it takes one,
    or a part of one as its memory allows; else `threads` cores. Raises StudyError, with the numbers, where the workers
    asked for do not fit, or not even one does.
    """
    gpus = sum(machine.gpus for machine in machines)
    made = _on_gpus(machines, needs, wish) if gpus >= 1 else _on_cores(machines, needs, wish)
    return WorkerPool(made[0], made[1], tuple(services), _room(needs, wish, made[2]))


def workers(machines: Sequence[Machine], share: ResourceRequest) -> int:
    """How many workers with such a share the machines have room for, each on one of them."""
    return sum(_fitting(machine, share) for machine in machines)


def _fitting(machine: Machine, share: ResourceRequest) -> int:
    if share.gpus:
        return int(machine.gpus) * int(1 / share.gpus + 1e-6)
    by_cores = int(machine.cpus / share.cpus + 1e-6)
    return by_cores if machine.memory is None else min(by_cores, int(machine.memory / max(share.memory, 1.0)))


def needed(needs: Needs | None, wish: Wish) -> float:
    """Bytes that a worker takes at the least."""
    if wish.memory is not None:
        return wish.memory
    return 0.0 if needs is None else needs.peak + _PROCESS


def _on_cores(
    machines: Sequence[Machine], needs: Needs | None, wish: Wish
) -> tuple[int, ResourceRequest, float | None]:
    least = needed(needs, wish)
    share = ResourceRequest(wish.threads, 0, math.ceil(least / _USABLE))
    cores = sum(machine.cpus for machine in machines)
    without_memory = workers(machines, ResourceRequest(wish.threads, 0))
    if wish.workers is not None and wish.workers > without_memory:
        need = wish.workers * wish.threads
        raise StudyError(
            f"{wish.workers} actors with {wish.threads} threads each need {need} cores, and there are {cores:g}",
            accepted=f"at most {without_memory} actors with {wish.threads} threads each here",
            todo="lower run.actors or numerics.threads, or give --address of a larger cluster",
        )
    if not without_memory:
        raise StudyError(
            f"a worker with {wish.threads} threads needs {wish.threads} cores of one machine, and none has so many: "
            f"{len(machines)} machines, {cores:g} cores",
            todo="lower numerics.threads, or give --address of another cluster",
        )
    fitting = workers(machines, share)
    if fitting < (wish.workers or 1):
        raise _no_memory(needs, least, max(machine.memory or 0.0 for machine in machines), wish, fitting)
    count = wish.workers or fitting
    used = [machine for machine in machines if _fitting(machine, share)]
    each = [machine.memory / min(_fitting(machine, share), count) for machine in used if machine.memory is not None]
    return count, share, min(each) if each else None


def _on_gpus(machines: Sequence[Machine], needs: Needs | None, wish: Wish) -> tuple[int, ResourceRequest, float | None]:
    used = [machine for machine in machines if machine.gpus >= 1]
    gpus = sum(int(machine.gpus) for machine in used)
    known = [machine.gpu_memory for machine in used if machine.gpu_memory is not None]
    least, memory = needed(needs, wish), min(known) if known else None
    fitting = None if memory is None or not least else int(_USABLE * memory / least)
    together = wish.per_gpu or (math.ceil(wish.workers / gpus) if wish.workers else 0)
    if not together:
        together = 1 if fitting is None else max(1, min(_MOST_ON_A_GPU, fitting))
    if memory is not None and fitting is not None and together > fitting:
        raise _no_memory(needs, least, memory, wish, fitting * gpus)
    share = ResourceRequest(cpus=0, gpus=math.floor(1e4 / together) / 1e4)
    return wish.workers or gpus * together, share, None if memory is None else memory / together


def _room(needs: Needs | None, wish: Wish, memory: float | None) -> MachineRoom:
    """What a worker with `memory` may hold beside what its calls take while they run."""
    if wish.models is not None or needs is None or memory is None:
        return MachineRoom(wish.models or MOST_MODELS)
    room = _USABLE * memory - _PROCESS - needs.working
    return MachineRoom(max(room, float(needs.peak - needs.working)), needs.held)


def _no_memory(needs: Needs | None, least: float, there: float, wish: Wish, fitting: int) -> StudyError:
    each = gib(least / _USABLE)
    if fitting:
        what = f"{wish.workers or 'so many'} workers need {each} each, and there is memory for {fitting}"
    else:
        what = f"a worker needs {each}, and the most that there is on one device or machine is {gib(there)}"
    return StudyError(
        what,
        accepted=None if needs is None else f"most is needed by {needs.largest}",
        todo="lower numerics.batch or the number of actors, or use larger machines; run.actor_mib sets what a worker "
        "needs, where the estimate is wrong",
    )


def not_up(machines: Sequence[Machine], crew: WorkerPool, missing: int, seconds: float) -> StudyError:
    """What is said of a crew where `missing` of its actors did not start in time."""
    cpus, gpus = sum(one.cpus for one in machines), sum(one.gpus for one in machines)
    share = crew.share
    takes = (f"{share.gpus:g} GPUs" if share.gpus else f"{share.cpus:g} cores") + (
        f" and {gib(share.memory)}" if share.memory else ""
    )
    return StudyError(
        f"{missing} of {len(crew.roles)} actors did not start within {seconds:g} s",
        accepted=f"a worker takes {takes}; the cluster has {cpus:g} cores and {gpus:g} GPUs, in use by others or not",
        todo="lower run.actors, raise run.start_seconds, or use another cluster",
    )


def gib(size: float) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.1f} GiB"
