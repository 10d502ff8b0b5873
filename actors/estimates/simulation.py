"""Simulates a run: the driver, the scheduler and the policy are those of a launch, and the machines are simulated."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from actors.backends.interface import Ref
from actors.backends.simulated import Costs, Machines, Simulated
from actors.execution.attack_runs import AttackRuns
from actors.execution.driver import Progress, Sink, drive
from actors.execution.open_units import OpenUnit
from actors.execution.runtime import Runtime
from actors.resources import placement, shards
from actors.scheduling.backlog import Task
from actors.scheduling.limits import Limits
from actors.scheduling.messages import PredictJob
from actors.scheduling.scheduler import Scheduler
from actors.workers.worker_config import WorkerConfig
from study.events.observer import Observer
from study.images.selection import Clean, Selected, Selection, Shard, cut
from study.planning.plan import Plan, Unit
from study.process.interrupt import Interrupt
from study.reproducibility.hashing import digest
from study.spec.schema import Spec


@dataclass(frozen=True)
class Forecast:
    """The result of a simulated run.

    Attributes:
        clean_seconds: Simulated seconds of the clean pass, in which all models predict the clean images.
        seconds: Simulated seconds of the attack runs, without the clean pass.
        busy_share: Share of the workers' time in which they compute, 0..1, without the clean pass.
        loading_share: Share of the workers' time in which they load models, 0..1, without the clean pass.
        model_loads: Number of model loads, including the clean pass.
        most_waiting_bytes: Largest number of bytes of adversarial images that wait for targets at one time.
        calls_per_second: Calls per simulated second, without the clean pass.
        nodes_lost: Number of machines that were lost, including the clean pass.
        units: Number of completed units (an attack run on one shard of the images).
    """

    clean_seconds: float
    seconds: float
    busy_share: float
    loading_share: float
    model_loads: int
    most_waiting_bytes: int
    calls_per_second: float
    nodes_lost: int
    units: int


def plan_without_images(spec: Spec, count: int, machines: Machines | None = None) -> Plan:
    """Return the plan of a spec for `count` images, without reading any image or model.

    `machines` decides the number of images in a unit. None stands for one worker on a processor. The ids in this plan
    differ from those in a real run, because they do not contain the digests of images and models.
    """
    predictions = {name: Clean((0,), (1.0,)) for name in spec.models}
    images = [Selected(f"{number:08d}", 0, 1, "0" * 64, predictions) for number in range(count)]
    gpus, workers = (False, 1) if machines is None else (machines.gpus, machines.nodes * machines.slots)
    selection = Selection(cut(images, shards.size(spec, count, gpus=gpus, workers=workers)), {})
    return Plan(spec, {name: digest(name) for name in spec.models}, selection.shards)


def simulate(
    plan: Plan, costs: Costs, machines: Machines, *, seed: int = 0, say: Callable[[str], None] = lambda line: None
) -> Forecast:
    """Simulate a run of `plan`, in which each call takes the time that `costs` has for it.

    `seed` decides when machines are lost. `say` gets the messages of the scheduler, such as one about a device that is
    set aside (not used any more).
    """
    spec = plan.spec
    backend = Simulated(costs, machines, batch=spec.numerics.batch, seed=seed)
    options = placement.WorkerOptions(models=spec.run.models_per_actor, per_gpu=1)
    pool = placement.plan_workers(backend.machines(), None, options, spec.services)
    scheduler = Scheduler(
        backend,
        pool,
        WorkerConfig(spec.models, spec.labels, spec.images.channels, spec.seed, spec.numerics),
        limits=Limits(1000, start_seconds=1e9, straggler_seconds=spec.run.straggler_seconds, lost_seconds=1e9),
        elastic=True,
        clock=backend.clock,
        say=say,
    )
    scheduler.start(lambda: None)
    clean_seconds = _clean_pass(plan, scheduler, backend)
    begun, before = backend.now, replace(backend.totals)
    runtime = Runtime(backend, scheduler, Observer(), Interrupt())
    attacks = AttackRuns(plan, _NoImages(), _NoRows(), runtime, progress=Progress({}, {}, 0), done={}, rmsd={})
    drive(attacks, runtime)
    assert not attacks.outcome.failures, "only machines and devices fail in a simulation"
    seconds = backend.now - begun
    return Forecast(
        clean_seconds=clean_seconds,
        seconds=seconds,
        busy_share=(backend.totals.busy - before.busy) / (seconds * pool.workers),
        loading_share=(backend.totals.loading - before.loading) / (seconds * pool.workers),
        model_loads=backend.totals.loads,
        most_waiting_bytes=attacks.most_waiting_bytes,
        calls_per_second=(backend.totals.calls - before.calls) / seconds,
        nodes_lost=backend.totals.lost,
        units=attacks.outcome.finished,
    )


def _clean_pass(plan: Plan, scheduler: Scheduler, backend: Simulated) -> float:
    """Simulate the clean pass, in which every model predicts all images. Returns its simulated seconds.

    In this pass, the workers load their first models.
    """
    begun, batch = backend.now, plan.spec.numerics.batch
    ids = [one.image for shard in plan.shards for one in shard.images]
    for name in plan.spec.predicting:
        for start in range(0, len(ids), batch):
            job = PredictJob((name,), batch, tuple(ids[start : start + batch]))
            service = name in plan.spec.services
            scheduler.add(Task("predict", {name: None}, job, lambda: -1, float(len(job.images)), None, service=service))
    while not scheduler.idle:
        scheduler.step(1.0)
    return backend.now - begun


class _NoImages:
    """The source of clean images in a simulation, which has no pixels."""

    def of(self, unit: Unit, pool: Sequence[Selected]) -> Ref:
        return -1

    def some(self, shard: Shard) -> Ref:
        return -1

    def pixels(self, shard: Shard) -> NDArray[np.uint8]:
        raise NotImplementedError("a simulation has no pixels")


class _NoRows:
    """The writer of rows in a simulation, which writes nothing."""

    sinks: Collection[Sink] = ()
    waiting_bytes = 0

    def keep(self, opened: OpenUnit) -> None:
        """Do nothing: a simulation has no images to keep."""

    def write(self, opened: OpenUnit) -> None:
        """Do nothing: a simulation has no rows to write."""
