"""Plans how many workers the machines hold, and the cores, GPUs and memory that each of them reserves. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from actors.resources.memory_needs import Needs
from study.errors import StudyError

Role = str
"""`worker`, or `service <name>`: a remote service has one actor, so that one clock limits its rate."""

WORKER: Role = "worker"

_PROCESS = 700 * 2**20
"""Bytes of a worker without models: Python, torch, and on a GPU the CUDA context."""

_USABLE = 0.9
"""Fraction of the memory that is planned with: allocators leave gaps."""

_MOST_ON_A_GPU = 2
"""Workers on one GPU by default: while one computes on the processor, the other has the GPU."""

MOST_MODELS = 16
"""Models that a worker holds where the size of its memory is not known."""


@dataclass(frozen=True)
class Machine:
    """Cores and GPUs of a machine, and bytes of its memory, of each GPU, and of its object store; None if unknown."""

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
class ModelCapacity:
    """How many models a worker can hold: the limit, and each model's size; in bytes, or in models if unknown."""

    limit: float
    sizes: Mapping[str, float] = field(default_factory=dict)

    def size_of(self, models: Iterable[str]) -> float:
        return sum(self.sizes.get(name, 1.0) for name in models)


@dataclass(frozen=True)
class WorkerPool:
    """The actors of a study: the number of workers, what each reserves and can hold, and the models with a service."""

    workers: int
    resources: ResourceRequest
    services: tuple[str, ...] = ()
    capacity: ModelCapacity = ModelCapacity(MOST_MODELS)

    @property
    def roles(self) -> list[Role]:
        """The role of every actor."""
        return [*[WORKER] * self.workers, *(service_role(name) for name in self.services)]

    def resources_of(self, role: Role) -> ResourceRequest:
        return self.resources if role == WORKER else ResourceRequest(0, 0)


@dataclass(frozen=True)
class WorkerOptions:
    """The user's settings for workers; None: as the machines allow.

    Attributes:
        threads: Of each worker on a processor.
        workers: Total number.
        per_gpu: Number on one GPU.
        models: Most models that one holds.
        memory: Bytes of one, instead of the estimate.
    """

    threads: int = 1
    workers: int | None = None
    per_gpu: int | None = None
    models: int | None = None
    memory: float | None = None


def service_role(model: str) -> Role:
    """The role of the actor that sends requests to the remote service behind `model`."""
    return f"service {model}"


def service_of(role: Role) -> str | None:
    """The model of an actor whose role is a remote service; None for other roles."""
    return role.removeprefix("service ") if role.startswith("service ") else None


def plan_workers(
    machines: Sequence[Machine], needs: Needs | None, options: WorkerOptions, services: Sequence[str] = ()
) -> WorkerPool:
    """The actors for `machines`. `needs`: the memory of the study, None where it is unknown.

    Every worker both crafts and predicts, so none idles while the other kind of work waits. On machines with GPUs it
    gets one, or a part of one if memory allows; on others, `threads` cores. Raises StudyError, with the numbers, where
    the requested workers do not fit, or not even one does.
    """
    gpus = sum(machine.gpus for machine in machines)
    workers, resources, memory = (_on_gpus if gpus >= 1 else _on_cores)(machines, needs, options)
    return WorkerPool(workers, resources, tuple(services), _capacity(needs, options, memory))


def fitting_workers(machines: Sequence[Machine], resources: ResourceRequest) -> int:
    """How many workers with these resources fit on the machines."""
    return sum(_fitting(machine, resources) for machine in machines)


def _fitting(machine: Machine, resources: ResourceRequest) -> int:
    if resources.gpus:
        return int(machine.gpus) * int(1 / resources.gpus + 1e-6)
    by_cores = int(machine.cpus / resources.cpus + 1e-6)
    return by_cores if machine.memory is None else min(by_cores, int(machine.memory / max(resources.memory, 1.0)))


def worker_bytes(needs: Needs | None, options: WorkerOptions) -> float:
    """Bytes that a worker needs at least; 0 where they are unknown."""
    if options.memory is not None:
        return options.memory
    return 0.0 if needs is None else needs.peak + _PROCESS


def _on_cores(
    machines: Sequence[Machine], needs: Needs | None, options: WorkerOptions
) -> tuple[int, ResourceRequest, float | None]:
    """Workers, the resources of each, and the bytes of memory that each can use."""
    least = worker_bytes(needs, options)
    resources = ResourceRequest(options.threads, 0, math.ceil(least / _USABLE))
    cores = sum(machine.cpus for machine in machines)
    by_cores = fitting_workers(machines, ResourceRequest(options.threads, 0))
    threads = f"{options.threads} thread{'s' * (options.threads > 1)}"
    if options.workers is not None and options.workers > by_cores:
        needed = options.workers * options.threads
        raise StudyError(
            f"{options.workers} workers with {threads} each need {needed} cores, and there are {cores:g}",
            accepted=f"at most {by_cores} workers with {threads} each on these machines",
            todo="lower run.actors or numerics.threads, or give --address of a larger cluster",
        )
    if not by_cores:
        raise StudyError(
            f"a worker with {threads} needs {options.threads} cores of one machine, and no machine has that many: "
            f"{len(machines)} machine{'s' * (len(machines) != 1)}, {cores:g} cores in total",
            todo="lower numerics.threads, or give --address of another cluster",
        )
    fitting = fitting_workers(machines, resources)
    if fitting < (options.workers or 1):
        raise _no_memory(needs, least, max(machine.memory or 0.0 for machine in machines), options, fitting)
    count = options.workers or fitting
    used = [machine for machine in machines if _fitting(machine, resources)]
    each = [machine.memory / min(_fitting(machine, resources), count) for machine in used if machine.memory is not None]
    return count, resources, min(each) if each else None


def _on_gpus(
    machines: Sequence[Machine], needs: Needs | None, options: WorkerOptions
) -> tuple[int, ResourceRequest, float | None]:
    """The same on GPUs."""
    used = [machine for machine in machines if machine.gpus >= 1]
    gpus = sum(int(machine.gpus) for machine in used)
    known = [machine.gpu_memory for machine in used if machine.gpu_memory is not None]
    least, memory = worker_bytes(needs, options), min(known) if known else None
    fitting = None if memory is None or not least else int(_USABLE * memory / least)
    together = options.per_gpu or (math.ceil(options.workers / gpus) if options.workers else 0)
    if not together:
        together = 1 if fitting is None else max(1, min(_MOST_ON_A_GPU, fitting))
    if memory is not None and fitting is not None and together > fitting:
        raise _no_memory(needs, least, memory, options, fitting * gpus)
    resources = ResourceRequest(cpus=0, gpus=math.floor(1e4 / together) / 1e4)
    return options.workers or gpus * together, resources, None if memory is None else memory / together


def _capacity(needs: Needs | None, options: WorkerOptions, memory: float | None) -> ModelCapacity:
    """The models that a worker with `memory` bytes can hold in addition to the memory of a running call."""
    if options.models is not None or needs is None or memory is None:
        return ModelCapacity(options.models or MOST_MODELS)
    left = _USABLE * memory - _PROCESS - needs.working
    return ModelCapacity(max(left, float(needs.peak - needs.working)), needs.held)


def _no_memory(needs: Needs | None, least: float, memory: float, options: WorkerOptions, fitting: int) -> StudyError:
    each = gib(least / _USABLE)
    if fitting:
        workers = f"{options.workers} workers" if options.workers else "the workers"
        what = f"{workers} need {each} each, and there is memory for {fitting}"
    else:
        what = f"a worker needs {each}, and the largest device or machine has {gib(memory)}"
    return StudyError(
        what,
        accepted=None if needs is None else f"the largest need is that of {needs.largest}",
        todo="lower numerics.batch or the number of actors, or use larger machines; if the estimate is wrong, set the "
        "memory of a worker with run.actor_mib",
    )


def not_up(machines: Sequence[Machine], pool: WorkerPool, missing: int, seconds: float) -> StudyError:
    """The error where `missing` actors of a pool did not start within `seconds`."""
    cpus, gpus = sum(one.cpus for one in machines), sum(one.gpus for one in machines)
    resources = pool.resources
    each = (f"{resources.gpus:g} GPUs" if resources.gpus else f"{resources.cpus:g} cores") + (
        f" and {gib(resources.memory)}" if resources.memory else ""
    )
    return StudyError(
        f"{missing} of {len(pool.roles)} actors did not start within {seconds:g} s",
        accepted=f"a worker takes {each}; the cluster has {cpus:g} cores and {gpus:g} GPUs, including those in use",
        todo="lower run.actors, raise run.start_seconds, or use another cluster",
    )


def gib(size: float) -> str:
    """Bytes as a text in GiB."""
    return f"{size / 2**30:.1f} GiB"
