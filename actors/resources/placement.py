"""Plans how many workers run on the machines, and the cores, GPUs and memory that each worker reserves. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from actors.resources.memory_needs import Needs
from study.errors import StudyError
from study.spec.run_options import DeviceChoice

Role = str
"""The role of an actor: `worker`, or `service <name>`. A remote service has one actor, so that one clock limits the
rate of its requests."""

WORKER: Role = "worker"

_PROCESS = 700 * 2**20
"""Bytes of a worker without models: Python, torch, and on a GPU the CUDA context."""

_USABLE = 0.9
"""Fraction of the memory that plans use, because allocators leave gaps."""

MOST_MODELS = 16
"""Most models that a worker holds if the size of its memory is not known."""


@dataclass(frozen=True)
class Machine:
    """A machine of a cluster. Sizes are in bytes; None if unknown.

    Attributes:
        cpus: Number of cores.
        gpus: Number of GPUs.
        memory: Memory of the machine.
        gpu_memory: Memory of each GPU.
        store: Size of its object store.
        host: Its name, for messages.
    """

    cpus: float
    gpus: float = 0.0
    memory: float | None = None
    gpu_memory: float | None = None
    store: float | None = None
    host: str = ""


@dataclass(frozen=True)
class ResourceRequest:
    """The resources that one actor reserves on a machine; memory in bytes. `gpu_memory`: least memory on its GPU."""

    cpus: float
    gpus: float
    memory: float = 0.0
    gpu_memory: float = 0.0

    @property
    def device(self) -> str:
        return "cuda:0" if self.gpus else "cpu"

    @property
    def together(self) -> int:
        """Number of actors on one GPU."""
        return int(1 / self.gpus + 1e-6)

    def fits_on_gpu(self, memory: float | None) -> bool:
        """Whether `together` actors fit on a GPU with `memory` bytes; True if `memory` is None (unknown)."""
        return memory is None or memory >= self.gpu_memory * self.together


@dataclass(frozen=True)
class ModelCapacity:
    """How many models a worker can hold.

    Attributes:
        limit: The largest sum of sizes, in bytes; if sizes are unknown, the largest number of models.
        sizes: The size of each model in bytes, by name. A model without a size counts as 1.
    """

    limit: float
    sizes: Mapping[str, float] = field(default_factory=dict)

    def size_of(self, models: Iterable[str]) -> float:
        return sum(self.sizes.get(name, 1.0) for name in models)


@dataclass(frozen=True)
class WorkerOptions:
    """The user's settings for workers. None leaves the choice to the planner.

    Attributes:
        threads: Threads of each worker on a processor.
        workers: Total number of workers.
        per_gpu: Workers on one GPU.
        models: Most models that a worker holds.
        memory: Bytes of memory of a worker, instead of the estimate.
        device: The device of workers. `auto` chooses GPUs if a machine has one, and otherwise processors.
        fewer: Whether fewer workers than `workers` may start, because further machines can join.
    """

    threads: int = 1
    workers: int | None = None
    per_gpu: int | None = None
    models: int | None = None
    memory: float | None = None
    device: DeviceChoice = "auto"
    fewer: bool = False


@dataclass(frozen=True)
class WorkerPool:
    """The planned actors of a study.

    Attributes:
        workers: Number of workers.
        resources: The resources that each worker reserves.
        services: The models behind a remote service; each has one actor.
        capacity: How many models each worker can hold.
        needs: The memory of the study that the plan used; None if unknown.
        options: The settings that the plan used.
    """

    workers: int
    resources: ResourceRequest
    services: tuple[str, ...] = ()
    capacity: ModelCapacity = ModelCapacity(MOST_MODELS)
    needs: Needs | None = None
    options: WorkerOptions = WorkerOptions()

    @property
    def roles(self) -> list[Role]:
        """The role of every actor."""
        return [*[WORKER] * self.workers, *(service_role(name) for name in self.services)]

    def resources_of(self, role: Role) -> ResourceRequest:
        return self.resources if role == WORKER else ResourceRequest(0, 0)

    def capacity_on(self, gpu_memory: float | None) -> ModelCapacity:
        """How many models a worker can hold if its GPU has `gpu_memory` bytes.

        With None, or on a processor, this is the planned `capacity`.
        """
        if gpu_memory is None or not self.resources.gpus:
            return self.capacity
        return _capacity(self.needs, self.options, gpu_memory / self.resources.together)


def service_role(model: str) -> Role:
    """The role of the actor that sends requests to the remote service behind `model`."""
    return f"service {model}"


def service_of(role: Role) -> str | None:
    """The model of an actor whose role is a remote service; None for other roles."""
    return role.removeprefix("service ") if role.startswith("service ") else None


def usable(machines: Sequence[Machine], device: DeviceChoice) -> list[Machine]:
    """The machines that workers on `device` can use.

    `gpu`: the machines with GPUs. `cpu`: all machines, described as if they had no GPUs. `auto`: all machines.
    """
    if device == "cpu":
        return [replace(machine, gpus=0.0, gpu_memory=None) for machine in machines]
    return [machine for machine in machines if machine.gpus >= 1] if device == "gpu" else list(machines)


def on_gpus(machines: Sequence[Machine], device: DeviceChoice) -> bool:
    """Whether workers run on GPUs of these machines."""
    return device == "gpu" or any(machine.gpus >= 1 for machine in usable(machines, device))


def plan_workers(
    machines: Sequence[Machine], needs: Needs | None, options: WorkerOptions, services: Sequence[str] = ()
) -> WorkerPool:
    """Plan the actors for `machines`. `needs`: the memory of the study; None if unknown.

    Every worker both runs attacks and predicts, so no worker is idle while tasks of either kind wait. If a machine has
    GPUs, each worker gets a GPU, or a part of a GPU if the options say so. Otherwise each worker gets `threads` cores.
    GPUs that are too small are left out. Raises StudyError, with the numbers, if the requested workers do not fit, or
    if not even one worker fits.
    """
    make = _on_gpus if on_gpus(machines, options.device) else _on_cores
    workers, resources, memory = make(usable(machines, options.device), needs, options)
    return WorkerPool(workers, resources, tuple(services), _capacity(needs, options, memory), needs, options)


def fitting_workers(machines: Sequence[Machine], resources: ResourceRequest) -> int:
    """How many workers fit on the machines if each reserves `resources`."""
    return sum(_fitting(machine, resources) for machine in machines)


def _fitting(machine: Machine, resources: ResourceRequest) -> int:
    if resources.gpus:
        return int(machine.gpus) * resources.together if resources.fits_on_gpu(machine.gpu_memory) else 0
    by_cores = int(machine.cpus / resources.cpus + 1e-6)
    return by_cores if machine.memory is None else min(by_cores, int(machine.memory / max(resources.memory, 1.0)))


def worker_bytes(needs: Needs | None, options: WorkerOptions) -> float:
    """Least bytes of memory that a worker needs; 0 if unknown."""
    if options.memory is not None:
        return options.memory
    return 0.0 if needs is None else needs.peak + _PROCESS


def lacking(pool: WorkerPool, gpu_memory: float | None) -> str | None:
    """Say why a GPU is too small for the workers of `pool` on it; None if it is large enough or its size is unknown.

    `gpu_memory`: bytes of the GPU that a worker's process sees; None if unknown.
    """
    resources = pool.resources
    needed = _USABLE * resources.gpu_memory * (resources.together if resources.gpus else 0)
    if gpu_memory is None or gpu_memory >= needed:
        return None
    return f"a worker's process sees {gib(gpu_memory)} of memory, but the workers there need {gib(needed)}"


def remarks(machines: Sequence[Machine], pool: WorkerPool) -> list[str]:
    """Lines for the user about GPUs that are unused or of different sizes, and about a reduced run.actors_per_gpu."""
    if not pool.resources.gpus:
        return []
    asked, together = pool.options.per_gpu, pool.resources.together
    used = [one for one in machines if one.gpus >= 1 and pool.resources.fits_on_gpu(one.gpu_memory)]
    small = [one for one in machines if one.gpus >= 1 and one not in used]
    sizes = sorted({one.gpu_memory for one in used if one.gpu_memory is not None})
    lines = [
        f"{int(one.gpus)} GPU{'s' * (one.gpus >= 2)} of {one.host or 'a machine'} not used: a worker needs "
        f"{gib(pool.resources.gpu_memory)}, but a GPU there has only {gib(one.gpu_memory or 0)}"
        for one in small
    ]
    if len(sizes) > 1:
        lines.append(
            f"the GPUs have {gib(sizes[0])} to {gib(sizes[-1])}: every worker holds as many models as fit on its GPU"
        )
    if asked is not None and together < asked:
        lines.append(
            f"run.actors_per_gpu is {together} instead of {asked}: the smallest GPU, of {gib(sizes[0])}, has room for "
            f"{together}"
        )
    return lines


def _on_cores(
    machines: Sequence[Machine], needs: Needs | None, options: WorkerOptions
) -> tuple[int, ResourceRequest, float | None]:
    """Number of workers, resources of each worker, and bytes of memory that each worker can use (None if unknown)."""
    least = worker_bytes(needs, options)
    resources = ResourceRequest(options.threads, 0, math.ceil(least / _USABLE))
    cores = sum(machine.cpus for machine in machines)
    by_cores = fitting_workers(machines, ResourceRequest(options.threads, 0))
    threads = f"{options.threads} thread{'s' * (options.threads > 1)}"
    if options.workers is not None and options.workers > by_cores and not options.fewer:
        needed = options.workers * options.threads
        raise StudyError(
            f"{options.workers} workers with {threads} each need {needed} cores, but the machines have {cores:g}",
            accepted=f"at most {by_cores} workers with {threads} each on these machines",
            todo="lower run.actors or numerics.threads, or give --address of a larger cluster",
        )
    if not by_cores:
        raise StudyError(
            f"a worker with {threads} needs {options.threads} cores of one machine, but no machine has that many: "
            f"there {'is' if len(machines) == 1 else 'are'} {len(machines)} machine{'s' * (len(machines) != 1)} with "
            f"{cores:g} cores in total",
            todo="lower numerics.threads, or give --address of another cluster",
        )
    fitting = fitting_workers(machines, resources)
    if fitting < (1 if options.fewer else options.workers or 1):
        raise _no_memory(needs, least, max(machine.memory or 0.0 for machine in machines), options, fitting)
    count = min(options.workers or fitting, fitting)
    used = [machine for machine in machines if _fitting(machine, resources)]
    each = [machine.memory / min(_fitting(machine, resources), count) for machine in used if machine.memory is not None]
    return count, resources, min(each) if each else None


def _on_gpus(
    machines: Sequence[Machine], needs: Needs | None, options: WorkerOptions
) -> tuple[int, ResourceRequest, float | None]:
    """As `_on_cores`, for workers on GPUs. Each worker gets a whole GPU, unless the options say otherwise."""
    least = worker_bytes(needs, options)

    def room(machine: Machine) -> float:
        return math.inf if machine.gpu_memory is None or not least else int(_USABLE * machine.gpu_memory / least)

    there = [machine for machine in machines if machine.gpus >= 1]
    if not there:
        raise StudyError(
            "no machine has a GPU",
            where="run.device: gpu",
            accepted="a cluster with GPUs, or a cluster whose autoscaler adds GPUs within run.wait_seconds",
            todo="give --address of such a cluster, raise run.wait_seconds, or set run.device to cpu",
        )
    used = [machine for machine in there if room(machine)]
    gpus = sum(int(machine.gpus) for machine in used or there)
    wanted = options.per_gpu or (math.ceil(options.workers / gpus) if options.workers and not options.fewer else 1)
    rooms = [room(machine) for machine in used]
    known = [machine.gpu_memory for machine in used or there if machine.gpu_memory is not None]
    if not used or max(rooms) < wanted:
        fitting = sum(int(room(machine)) * int(machine.gpus) for machine in used)
        raise _no_memory(needs, least, max(known, default=0.0), options, fitting)
    together = int(min(wanted, *rooms))
    if options.workers is not None and options.workers > together * gpus and not options.fewer:
        raise _no_memory(needs, least, max(known), options, together * gpus)
    resources = ResourceRequest(0, math.floor(1e4 / together) / 1e4, gpu_memory=math.floor(least / _USABLE))
    return min(options.workers or gpus * together, gpus * together), resources, min(known) / together if known else None


def _capacity(needs: Needs | None, options: WorkerOptions, memory: float | None) -> ModelCapacity:
    """How many models a worker with `memory` bytes can hold. The memory of a running call is kept free."""
    if options.models is not None or needs is None or memory is None:
        return ModelCapacity(options.models or MOST_MODELS)
    left = _USABLE * memory - _PROCESS - needs.working
    return ModelCapacity(max(left, float(needs.peak - needs.working)), needs.held)


def _no_memory(needs: Needs | None, least: float, memory: float, options: WorkerOptions, fitting: int) -> StudyError:
    each = gib(least / _USABLE)
    if fitting:
        workers = f"{options.workers} workers" if options.workers else "the workers"
        what = f"{workers} need {each} of memory each, and the machines have memory for only {fitting}"
    else:
        what = f"a worker needs {each} of memory, and the largest device or machine has only {gib(memory)}"
    return StudyError(
        what,
        accepted=None if needs is None else f"machines with memory for the largest call: {needs.largest}",
        todo="lower numerics.batch or the number of actors, or use larger machines; if the estimate is wrong, set the "
        "memory of a worker with run.actor_mib",
    )


def not_up(machines: Sequence[Machine], pool: WorkerPool, missing: int, seconds: float) -> StudyError:
    """The error for `missing` actors of a pool that did not start within `seconds`."""
    cpus, gpus = sum(one.cpus for one in machines), sum(one.gpus for one in machines)
    resources = pool.resources
    each = (f"{resources.gpus:g} GPUs" if resources.gpus else f"{resources.cpus:g} cores") + (
        f" and {gib(resources.memory)}" if resources.memory else ""
    )
    return StudyError(
        f"{missing} of {len(pool.roles)} actors did not start within {seconds:g} s",
        accepted=f"free resources for every worker: a worker needs {each}; the cluster has {cpus:g} cores and "
        f"{gpus:g} GPUs in all, and some may be in use",
        todo="lower run.actors, raise run.start_seconds, or use another cluster",
    )


def gib(size: float) -> str:
    """Format `size` bytes as text in GiB."""
    return f"{size / 2**30:.1f} GiB"
