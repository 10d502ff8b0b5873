"""Plans how many workers run on the machines, and the cores, GPUs and memory that each worker reserves.

The functions depend on their arguments only. They start nothing and measure nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from actors.resources.memory_needs import Needs
from study.errors import StudyError
from study.spec.run_options import DeviceChoice
from study.terminal.screen import counted

Role = str
"""The role of an actor: `worker`, or `service <name>`. Each remote service has only one actor, which limits the rate of
the requests to this service."""

WORKER: Role = "worker"

_PROCESS = 700 * 2**20
"""Bytes that the process of a worker needs without any model: Python, torch, and on a GPU the CUDA context."""

_USABLE = 0.9
"""Fraction of the memory that a plan may use. It is below 1 because allocators leave unusable gaps."""

MOST_MODELS = 16
"""Largest number of models that a worker holds if the size of its memory is not known."""


@dataclass(frozen=True)
class Machine:
    """A machine of a cluster. Sizes are in bytes. An unknown size is None.

    Attributes:
        cpus: Number of cores.
        gpus: Number of GPUs.
        memory: Memory of the machine.
        gpu_memory: Memory of each GPU.
        store: Size of the object store of the machine.
        host: Name of the machine, for messages.
    """

    cpus: float
    gpus: float = 0.0
    memory: float | None = None
    gpu_memory: float | None = None
    store: float | None = None
    host: str = ""


@dataclass(frozen=True)
class ResourceRequest:
    """The resources that one actor reserves on a machine.

    Attributes:
        cpus: Number of cores.
        gpus: Number of GPUs. It is 0.5 if two actors share a GPU.
        memory: Bytes of memory.
        gpu_memory: Bytes of GPU memory that the actor needs at least.
    """

    cpus: float
    gpus: float
    memory: float = 0.0
    gpu_memory: float = 0.0

    @property
    def device(self) -> str:
        return "cuda:0" if self.gpus else "cpu"

    @property
    def together(self) -> int:
        """Number of actors that share one GPU."""
        return int(1 / self.gpus + 1e-6)

    def fits_on_gpu(self, memory: float | None) -> bool:
        """Return whether `together` actors fit on a GPU with `memory` bytes; True if `memory` is None (unknown)."""
        return memory is None or memory >= self.gpu_memory * self.together


@dataclass(frozen=True)
class ModelCapacity:
    """How many models a worker can hold.

    Attributes:
        limit: The largest sum of the sizes of the models, in bytes. If sizes are unknown, the largest number of models.
        sizes: The size of each model in bytes, by name. A model that is not listed has the size 1.
    """

    limit: float
    sizes: Mapping[str, float] = field(default_factory=dict)

    def size_of(self, models: Iterable[str]) -> float:
        return sum(self.sizes.get(name, 1.0) for name in models)


@dataclass(frozen=True)
class WorkerOptions:
    """The user's settings for workers. If a setting is None, the planner chooses.

    Attributes:
        threads: Number of threads of each worker on a processor.
        workers: Number of all workers.
        per_gpu: Number of workers on one GPU.
        models: Largest number of models that a worker holds.
        memory: Bytes of memory of a worker. They replace the estimate.
        device: The device of workers. `auto` chooses GPUs if a machine has one, and otherwise processors.
        fewer: Whether fewer than `workers` workers may start at first, because further machines can join.
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
        services: The models that are remote services. Each of them has one actor.
        capacity: How many models each worker can hold.
        needs: The memory of the study, on which the plan is based; None if unknown.
        options: The user's settings, on which the plan is based.
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
        """Return how many models a worker can hold if its GPU has `gpu_memory` bytes.

        If `gpu_memory` is None, or on a processor, this is the planned `capacity`.
        """
        if gpu_memory is None or not self.resources.gpus:
            return self.capacity
        return _capacity(self.needs, self.options, gpu_memory / self.resources.together)


def service_role(model: str) -> Role:
    """Return the role of the actor that sends requests to the remote service of the model `model`."""
    return f"service {model}"


def service_of(role: Role) -> str | None:
    """Return the name of the model whose remote service an actor of this role calls; None for other roles."""
    return role.removeprefix("service ") if role.startswith("service ") else None


def usable(machines: Sequence[Machine], device: DeviceChoice) -> list[Machine]:
    """Return the machines that workers on `device` can use.

    For `gpu`, these are the machines with GPUs. For `cpu`, these are all machines, described as if they had no GPUs.
    For `auto`, these are all machines.
    """
    if device == "cpu":
        return [replace(machine, gpus=0.0, gpu_memory=None) for machine in machines]
    return [machine for machine in machines if machine.gpus >= 1] if device == "gpu" else list(machines)


def on_gpus(machines: Sequence[Machine], device: DeviceChoice) -> bool:
    """Return whether workers run on the GPUs of these machines, if the user asks for `device`."""
    return device == "gpu" or any(machine.gpus >= 1 for machine in usable(machines, device))


def plan_workers(
    machines: Sequence[Machine], needs: Needs | None, options: WorkerOptions, services: Sequence[str] = ()
) -> WorkerPool:
    """Plan the actors of a study on `machines`.

    Every worker both runs attacks and predicts, so no worker is idle while tasks of either kind wait. If a machine has
    GPUs that the options allow, each worker gets a GPU, or a part of a GPU if the options say so. Otherwise each worker
    gets `threads` cores. GPUs that are too small are not used.

    `needs`: the memory of the study; None if unknown. `services`: the models that are remote services. Raises
    StudyError, with the numbers, if the requested workers do not fit, or if not even one worker fits.
    """
    make = _on_gpus if on_gpus(machines, options.device) else _on_cores
    workers, resources, memory = make(usable(machines, options.device), needs, options)
    return WorkerPool(workers, resources, tuple(services), _capacity(needs, options, memory), needs, options)


def fitting_workers(machines: Sequence[Machine], resources: ResourceRequest) -> int:
    """Return how many workers fit on the machines if each worker reserves `resources`."""
    return sum(_fitting(machine, resources) for machine in machines)


def _fitting(machine: Machine, resources: ResourceRequest) -> int:
    if resources.gpus:
        return int(machine.gpus) * resources.together if resources.fits_on_gpu(machine.gpu_memory) else 0
    by_cores = int(machine.cpus / resources.cpus + 1e-6)
    return by_cores if machine.memory is None else min(by_cores, int(machine.memory / max(resources.memory, 1.0)))


def worker_bytes(needs: Needs | None, options: WorkerOptions) -> float:
    """Return the bytes of memory that a worker needs at least; 0 if unknown."""
    if options.memory is not None:
        return options.memory
    return 0.0 if needs is None else needs.peak + _PROCESS


def lacking(pool: WorkerPool, gpu_memory: float | None) -> str | None:
    """Return a text that says why a GPU is too small for the workers of `pool` that share it.

    `gpu_memory`: bytes of the GPU that a worker's process sees; None if unknown. Returns None if the GPU is large
    enough, or if its size is unknown.
    """
    resources = pool.resources
    needed = _USABLE * resources.gpu_memory * (resources.together if resources.gpus else 0)
    if gpu_memory is None or gpu_memory >= needed:
        return None
    return f"a worker's process sees {gib(gpu_memory)} of memory, but the workers there need {gib(needed)}"


def remarks(machines: Sequence[Machine], pool: WorkerPool) -> list[str]:
    """Return lines for the user about unused GPUs, GPUs of different sizes, and a reduced run.actors_per_gpu."""
    if not pool.resources.gpus:
        return []
    asked, together = pool.options.per_gpu, pool.resources.together
    used = [one for one in machines if one.gpus >= 1 and pool.resources.fits_on_gpu(one.gpu_memory)]
    small = [one for one in machines if one.gpus >= 1 and one not in used]
    sizes = sorted({one.gpu_memory for one in used if one.gpu_memory is not None})
    lines = [
        f"{counted(int(one.gpus), 'GPU')} of {one.host or 'a machine'} not used: a worker needs "
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
    """Return the number of workers, the resources of each worker, and the bytes of memory that each worker can use.

    The bytes are None if unknown. Raises StudyError as `plan_workers` does.
    """
    least = worker_bytes(needs, options)
    resources = ResourceRequest(options.threads, 0, math.ceil(least / _USABLE))
    cores = sum(machine.cpus for machine in machines)
    by_cores = fitting_workers(machines, ResourceRequest(options.threads, 0))
    threads = counted(options.threads, "thread")
    if not by_cores:
        raise StudyError(
            f"a worker with {threads} needs {counted(options.threads, 'core')} of one machine, but no machine has "
            f"that many: there {'is' if len(machines) == 1 else 'are'} {counted(len(machines), 'machine')}, cores in "
            f"total: {cores:g}",
            todo="lower numerics.threads, or give --address of another cluster",
        )
    if options.workers is not None and options.workers > by_cores and not options.fewer:
        needed = options.workers * options.threads
        raise StudyError(
            f"{options.workers} workers with {threads} each do not fit: they need {needed} cores in all, the machines "
            f"have {cores:g}, and no worker spans two machines",
            accepted=f"run.actors up to {by_cores}, with {threads} each, on these machines",
            todo="lower run.actors or numerics.threads, or give --address of a larger cluster",
        )
    fitting = fitting_workers(machines, resources)
    if fitting < (1 if options.fewer else options.workers or 1):
        with_cores = [machine for machine in machines if _fitting(machine, ResourceRequest(options.threads, 0))]
        raise _no_memory(needs, least, max(machine.memory or 0.0 for machine in with_cores), options, fitting)
    count = min(options.workers or fitting, fitting)
    used = [machine for machine in machines if _fitting(machine, resources)]
    each = [machine.memory / min(_fitting(machine, resources), count) for machine in used if machine.memory is not None]
    return count, resources, min(each) if each else None


def _on_gpus(
    machines: Sequence[Machine], needs: Needs | None, options: WorkerOptions
) -> tuple[int, ResourceRequest, float | None]:
    """Return the same as `_on_cores`, for workers on GPUs: their number, and the resources and usable bytes of each.

    By default, each worker gets a whole GPU.
    """
    least = worker_bytes(needs, options)

    def room(machine: Machine) -> float:
        return math.inf if machine.gpu_memory is None or not least else int(_USABLE * machine.gpu_memory / least)

    there = [machine for machine in machines if machine.gpus >= 1]
    if not there:
        raise StudyError(
            "no machine has a GPU",
            where="run.device: gpu",
            accepted="a machine or cluster with GPUs, or a cluster whose autoscaler adds GPUs within run.wait_seconds",
            todo="give --address of such a cluster, raise run.wait_seconds, or set run.device to cpu",
        )
    used = [machine for machine in there if room(machine)]
    gpus = sum(int(machine.gpus) for machine in used or there)
    wanted = options.per_gpu or (math.ceil(options.workers / gpus) if options.workers and not options.fewer else 1)
    rooms = [room(machine) for machine in used]
    known = [machine.gpu_memory for machine in used or there if machine.gpu_memory is not None]
    if used and options.per_gpu is not None and max(rooms) < wanted:
        raise StudyError(
            f"run.actors_per_gpu is {wanted}, but the largest GPU has room for only {int(max(rooms))}: a worker needs "
            f"{gib(least / _USABLE)} of memory, and this GPU has {gib(max(known))}",
            accepted=f"run.actors_per_gpu up to {int(max(rooms))} on these machines"
            + ("" if needs is None else f"; the largest call: {needs.largest}"),
            todo="lower run.actors_per_gpu or numerics.batch, or use larger GPUs; if the estimate is wrong, set the "
            "memory of a worker with run.actor_mib",
        )
    if not used or max(rooms) < wanted:
        # Every GPU gets as many workers as fit on the smallest.
        fitting = int(min(rooms, default=0)) * gpus
        raise _no_memory(needs, least, max(known, default=0.0), options, fitting)
    together = int(min(wanted, *rooms))
    if options.workers is not None and options.workers > together * gpus and not options.fewer:
        if together == options.per_gpu:
            raise StudyError(
                f"{options.workers} workers do not fit: run.actors_per_gpu is {together}, and the machines have "
                f"{counted(gpus, 'GPU')}",
                accepted=f"run.actors up to {together * gpus}, with {together} on each GPU",
                todo="lower run.actors, raise run.actors_per_gpu, or give --address of a larger cluster",
            )
        why = ", because every GPU gets as many workers as fit on the smallest"
        raise _no_memory(needs, least, max(known), options, together * gpus, why=why)
    resources = ResourceRequest(0, math.floor(1e4 / together) / 1e4, gpu_memory=math.floor(least / _USABLE))
    return min(options.workers or gpus * together, gpus * together), resources, min(known) / together if known else None


def _capacity(needs: Needs | None, options: WorkerOptions, memory: float | None) -> ModelCapacity:
    """Return how many models a worker with `memory` bytes can hold. Memory for a running call is kept free."""
    if options.models is not None or needs is None or memory is None:
        return ModelCapacity(options.models or MOST_MODELS)
    left = _USABLE * memory - _PROCESS - needs.working
    return ModelCapacity(max(left, float(needs.peak - needs.working)), needs.held)


def _no_memory(
    needs: Needs | None, least: float, memory: float, options: WorkerOptions, fitting: int, *, why: str = ""
) -> StudyError:
    """Return the error for memory that is too small. `memory`: bytes of the largest device or machine.

    `fitting`: how many workers fit. If it is not 0, the spec asks for more workers, with `run.actors`. `why`: the end
    of the sentence that says how many workers fit.
    """
    each = gib(least / _USABLE)
    if fitting:
        there = f"the machines have memory for only {fitting}{why}"
        what = f"{options.workers} workers need {each} of memory each, and {there}"
    else:
        what = f"a worker needs {each} of memory, and the largest usable GPU or machine has only {gib(memory)}"
    return StudyError(
        what,
        accepted=None if needs is None else f"machines with memory for the largest call: {needs.largest}",
        todo="lower numerics.batch or the number of actors, or use larger machines; if the estimate is wrong, set the "
        "memory of a worker with run.actor_mib",
    )


def not_up(machines: Sequence[Machine], pool: WorkerPool, missing: int, seconds: float) -> StudyError:
    """Return the error for `missing` actors of a pool that did not start within `seconds`."""
    cpus, gpus = sum(one.cpus for one in machines), sum(one.gpus for one in machines)
    resources = pool.resources
    each = (counted(resources.gpus, "GPU") if resources.gpus else counted(resources.cpus, "core")) + (
        f" and {gib(resources.memory)}" if resources.memory else ""
    )
    return StudyError(
        f"{missing} of {len(pool.roles)} actors did not start within {seconds:g} s",
        accepted=f"free resources for every worker: a worker needs {each}; the cluster has {counted(cpus, 'core')} "
        f"and {counted(gpus, 'GPU')} in all, and some may be in use",
        todo="lower run.actors, raise run.start_seconds, or use another cluster",
    )


def gib(size: float) -> str:
    """Return `size`, a number of bytes, as text in GiB."""
    return f"{size / 2**30:.1f} GiB"
