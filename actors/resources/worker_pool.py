"""The crew of a study: what its work needs is estimated while the backend starts, then held against the machines."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from actors.backends.interface import Backend
from actors.resources import object_store, passes, placement
from actors.resources.object_store import Budgets
from actors.resources.placement import Wish, WorkerPool
from actors.scheduling.slots import Limits
from study.models.memory_needs import Needs, needs
from study.spec.schema import Spec


class Estimate:
    """What a study's work needs, on its way in a thread of its own."""

    def __init__(self, spec: Spec, *, allow_code: bool) -> None:
        self._allow_code = allow_code
        self._said: list[str] = []
        self._pool = ThreadPoolExecutor(1, "estimate")
        self._found: Future[Needs | None] = self._pool.submit(self._of, spec)

    def _of(self, spec: Spec) -> Needs | None:
        return needs(
            spec.models,
            passes.gradients(spec),
            labels=spec.labels,
            channels=spec.images.channels,
            allow_code=self._allow_code,
            size=spec.images.size,
            predictions=passes.predictions(spec),
            say=self._said.append,
        )

    def get(self, say: Callable[[str], None]) -> Needs | None:
        """What it came to; says what its user should know. Raises what the estimate raised."""
        try:
            return self._found.result()
        finally:
            self._pool.shutdown(wait=False)
            for line in self._said:
                say(line)


def wish_of(spec: Spec) -> Wish:
    """What a spec says about workers."""
    run = spec.run
    memory = None if run.actor_mib is None else run.actor_mib * 2.0**20
    return Wish(spec.numerics.threads, run.actors, run.actors_per_gpu, run.models_per_actor, memory)


def limits_of(spec: Spec) -> Limits:
    """What a spec says about patience."""
    run = spec.run
    return Limits(
        attempts=run.attempts,
        start_seconds=run.start_seconds,
        call_seconds=run.call_seconds,
        straggler_seconds=run.straggler_seconds,
        memory_seconds=run.memory_seconds,
    )


def staff(spec: Spec, backend: Backend, estimate: Estimate, say: Callable[[str], None]) -> WorkerPool:
    """The crew, which is said. Raises StudyError, with the numbers, where the work does not fit the machines."""
    machines = backend.machines()
    needed = estimate.get(say)
    if needed is not None and any(machine.gpus >= 1 for machine in machines):
        needed = needed.elsewhere()
    crew = placement.crew(machines, needed, wish_of(spec), spec.services)
    cpus, gpus = sum(one.cpus for one in machines), sum(one.gpus for one in machines)
    share, most = crew.share, placement.needed(needed, wish_of(spec))
    each = f"{share.gpus:g} of a GPU each" if share.gpus else f"{share.cpus:g} core{'s' * (share.cpus > 1)} each"
    memory = f", {placement.gib(most)} at the height of a call" if most else ""
    say(
        f"{spec.study}: {backend.name}, {cpus:g} cores, {gpus:g} GPUs; "
        f"{crew.workers} worker{'s' * (crew.workers > 1)} on {share.device} ({each}{memory})"
    )
    return crew


def held(spec: Spec, backend: Backend, crew: WorkerPool, say: Callable[[str], None]) -> Budgets:
    """The budgets of the spec, or, which is said, what the machines' object stores hold of them."""
    found = [machine.store for machine in backend.machines() if machine.store is not None]
    wanted = object_store.asked(spec)
    there = object_store.fitting(wanted, found, crew.workers)
    line = object_store.told(wanted, there)
    if line is not None:
        say(line)
    return there
