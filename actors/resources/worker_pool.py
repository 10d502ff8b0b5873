"""Plans the workers of a study from the machines and from the memory that its models need.

The memory of the models is estimated in a thread, while the backend starts.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import TYPE_CHECKING

from actors.backends.interface import Backend
from actors.resources import memory_needs, object_store, placement
from actors.resources.object_store import PixelBudgets
from actors.resources.placement import WorkerOptions, WorkerPool
from actors.resources.waiting import Waiting
from study.models.memory_estimates import estimates
from study.reproducibility import user_files
from study.spec.own_parts import UserCode
from study.spec.schema import Spec

if TYPE_CHECKING:
    from study.models.memory import Memory


_TICK_SECONDS = 1.0


class MemoryEstimate:
    """The estimated memory of a study's models, which is computed in a thread."""

    def __init__(self, spec: Spec, *, allow_code: bool, code: UserCode, debugged: bool = False) -> None:
        """Start the estimate.

        `debugged`: whether the user debugs their own code. If so, and if a network is the user's own code, nothing is
        estimated. The estimate would run this code before the attack does.
        """
        self._allow_code = allow_code
        self._code = code
        self._lines: list[str] = []
        self._pool = ThreadPoolExecutor(1, "estimate")
        own_code = any(model.zoo == "python" for model in spec.models.values())
        self._found: Future[dict[str, Memory] | None] = self._pool.submit(
            self._nothing if debugged and own_code else self._estimate, spec
        )

    def _estimate(self, spec: Spec) -> dict[str, Memory] | None:
        with user_files.carried(self._code.functions):
            return estimates(
                spec.models,
                labels=spec.labels,
                channels=spec.images.channels,
                batch=memory_needs.estimated_batch(spec),
                allow_code=self._allow_code,
                say=self._lines.append,
            )

    def _nothing(self, spec: Spec) -> None:
        return None

    def get(self, say: Callable[[str], None], check: Callable[[], None]) -> dict[str, Memory] | None:
        """Wait for the estimate, and return the memory of each model by name. Raises the errors of the estimate.

        Returns None if an estimate is impossible, or if nothing is estimated because the user debugs their own code. If
        it is impossible, `say` gets a line with the reason. `check` is called about once a second during the wait, and
        may raise.
        """
        try:
            if not self._found.done():
                say("estimating the memory that the models need")
            while not wait([self._found], _TICK_SECONDS).done:
                check()
            return self._found.result()
        finally:
            self._pool.shutdown(wait=False)
            for line in self._lines:
                say(line)


def worker_options(spec: Spec) -> WorkerOptions:
    """Return the settings of a spec that concern workers."""
    run = spec.run
    memory = None if run.actor_mib is None else run.actor_mib * 2.0**20
    return WorkerOptions(
        spec.numerics.threads, run.actors, run.actors_per_gpu, run.models_per_actor, memory, run.device
    )


def plan_pool(
    spec: Spec,
    backend: Backend,
    estimate: MemoryEstimate,
    say: Callable[[str], None],
    *,
    workers: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> WorkerPool:
    """Wait for machines, plan the workers, and tell the user how many there are.

    The wait lasts as long as the spec allows. `workers` replaces the number of workers in the spec. `check` is called
    about once a second during the wait, and may raise. Raises StudyError, with the numbers, if the machines are too
    small or join too late.
    """
    found = estimate.get(say, check)
    options = worker_options(spec)
    options = options if workers is None else replace(options, workers=workers)

    def plan(options: WorkerOptions) -> WorkerPool:
        machines = backend.machines()
        device = "cuda:0" if placement.on_gpus(machines, options.device) else "cpu"
        needs = None if found is None else memory_needs.needs(spec, found, device)
        return placement.plan_workers(machines, needs, options, spec.services)

    waiting = Waiting(backend, spec.run, say, check)
    pool = plan(waiting.machines_for(options, plan))
    machines = backend.machines()
    cpus, gpus = sum(one.cpus for one in machines), sum(one.gpus for one in machines)
    resources, most = pool.resources, placement.worker_bytes(pool.needs, options)
    cores = f"{resources.cpus:g} core{'s' * (resources.cpus > 1)} each"
    each = f"{resources.gpus:g} of a GPU each" if resources.gpus else cores
    memory = f", {placement.gib(most)} in the largest call" if most else ""
    say(
        f"{spec.study}: {backend.name}, {cpus:g} core{'s' * (cpus != 1)}, {gpus:g} GPU{'s' * (gpus != 1)}; "
        f"{pool.workers} worker{'s' * (pool.workers > 1)} on {resources.device} ({each}{memory})"
    )
    for line in placement.remarks(machines, pool):
        say(line)
    return pool


def fit_budgets(spec: Spec, backend: Backend, pool: WorkerPool, say: Callable[[str], None]) -> PixelBudgets:
    """Return the limits for pixels that the spec sets, reduced if the object stores of the machines are smaller.

    If the limits are reduced, `say` gets a line with the new limits.
    """
    stores = [machine.store for machine in backend.machines() if machine.store is not None]
    wanted = object_store.pixel_budgets(spec, gpus=pool.resources.gpus > 0)
    fitting = object_store.fitting(wanted, stores, pool.workers)
    if fitting != wanted:
        say(object_store.reduction(fitting))
    return fitting
