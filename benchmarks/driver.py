"""Measures what the driver does for a unit: its processor time and the units per second, compared with bare Ray calls.

    python benchmarks/driver.py             about ten minutes on two cores: 1,000 to 100,000 units
    python benchmarks/driver.py --quick --json

A unit is one attack run on one shard of images. Here it has one image and one target: two calls and one row. The
workers do nothing and answer at once, so all the time is that of the runtime. The driver works as in a launch, with
time limits for calls, the log, status.json, and rows as Parquet.

The first part measures the driver alone, with workers in this process and without Ray. The second part runs on a local
Ray. It alternates with a tight loop that makes the same calls, one by one, to the same number of actors. This loop
shows the limit of Ray itself on this machine for single calls. The driver can be faster, because it starts up to four
short calls together.

Processor time of the driver is that of its whole process. Processor time in all processes includes the workers and
Ray's own daemons.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console

from actors.backends.bounded_calls import CallTimeouts, bounded
from actors.backends.interface import Backend, Call, CallRequest, Device, Ref
from actors.backends.ray_backend import RayBackend
from actors.execution.attack_runs import AttackRuns
from actors.execution.driver import Progress, drive
from actors.execution.row_sink import RowSink
from actors.execution.runtime import Runtime
from actors.resources import placement
from actors.resources.placement import Machine, ResourceRequest, Role
from actors.scheduling.limits import Limits
from actors.scheduling.messages import CraftJob, CraftResult, PredictJob, PredictResult, TargetResult
from actors.scheduling.scheduler import Scheduler
from actors.workers.model_cache import ModelRequest
from actors.workers.ray_actors import WorkerActor, pack
from actors.workers.worker_config import WorkerConfig
from study.events.observer import Started
from study.images.selection import Clean, Selected, Shard
from study.planning.plan import Plan, Unit
from study.process.interrupt import Interrupt
from study.results.schema import PixelDistances, TargetAnswers
from study.results.writer import Writer
from study.spec.loading import resolve
from study.spec.schema import Spec
from study.spec.yaml_document import parse
from study.storage.run_folder import RunFolder
from study.terminal import Display
from study.terminal.display import Style

SPEC = """
study: nothing
images: {sample: foolbox, size: 8, keep: all}
models: MODELS
attacks: ATTACKS
experiments: {x: {attacks: [NAMES], sources: each}}
numerics: {batch: 1, threads: 1}
run: {flush_seconds: 1}
"""
CRAFTS = 100
"""Number of attack runs in a plan. Each attack run has one unit for each shard of images."""

BARE_UNITS = 3000
"""Largest number of units of a bare loop, whose speed does not depend on this number."""


class Idle:
    """A worker that does nothing."""

    def __init__(self, kit: WorkerConfig, device: str) -> None:
        """Do nothing: this worker holds no models."""

    def hello(self) -> None:
        """Do nothing. An answer to this call shows that the process is up."""

    def craft(
        self, pin: ModelRequest, job: CraftJob, pixels: NDArray[np.uint8]
    ) -> tuple[CraftResult, NDArray[np.uint8]]:
        return CraftResult(PixelDistances(*np.zeros((3, len(job.images))))), np.zeros(
            (len(job.images), 3, 8, 8), np.uint8
        )

    def predict(self, pin: ModelRequest, job: PredictJob, pixels: NDArray[np.uint8]) -> PredictResult:
        labels, shares = np.zeros((len(pixels), 5), np.int32), np.zeros((len(pixels), 5), np.float32)
        return PredictResult(tuple(TargetResult(TargetAnswers(target, labels, shares), {}) for target in job.targets))


class IdleActor(WorkerActor):
    """The Ray actor that wraps an `Idle` worker."""

    kind = Idle


class BareActor:
    """A plain Ray actor that takes and returns as many bytes as an `IdleActor`."""

    def __init__(self, answer: bytes, pixels: NDArray[np.uint8]) -> None:
        self._answer, self._pixels = answer, pixels

    def craft(self, message: bytes, pixels: NDArray[np.uint8]) -> tuple[bytes, NDArray[np.uint8]]:
        return self._answer, self._pixels

    def predict(self, message: bytes, pixels: NDArray[np.uint8]) -> bytes:
        return self._answer


class IdleCluster(RayBackend):
    """The Ray backend with workers that do nothing."""

    def __init__(self) -> None:
        super().__init__("local")
        # Ray's workers cannot import this file, so its classes are pickled with their code.
        self._ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        self._worker = self._ray.remote(max_restarts=0, max_task_retries=0)(IdleActor)


class AtOnce:
    """A backend in this process that computes the answer of a call as soon as the call is made."""

    name = "nothing"

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._ids = itertools.count()
        self._answers: dict[Ref, Any] = {}
        self._worker = Idle(None, "cpu")  # type: ignore[arg-type]
        self._empty = np.zeros((1, 3, 8, 8), np.uint8)

    def machines(self) -> list[Machine]:
        return [Machine(float(self._workers))]

    def start(self, role: Role, resources: ResourceRequest, config: WorkerConfig) -> None:
        """Return None: there is no process to start."""

    def hello(self, actor: None) -> Ref:
        return self._answer(None)

    def call(self, actor: None, method: str, arguments: Sequence[Any], pixels: Ref) -> Call:
        answer = getattr(self._worker, method)(*arguments, self._empty)
        return Call(self._answer(answer[0]), -1) if method == "craft" else Call(self._answer(answer), None)

    def bundle(self, actor: None, requests: Sequence[CallRequest]) -> list[Call]:
        return [self.call(actor, *request) for request in requests]

    def _answer(self, value: Any) -> Ref:
        ref = next(self._ids)
        self._answers[ref] = value
        return ref

    def activity(self, actor: None) -> str:
        """Return an empty text, because a call takes no time."""
        return ""

    def wait(self, refs: Sequence[Ref], seconds: float) -> list[Ref]:
        # Return one answer at a time, as if workers took some time.
        return list(refs[:1])

    def value(self, ref: Ref) -> Any:
        return self._answers.pop(ref)

    def pixels(self, ref: Ref) -> NDArray[np.uint8]:
        return self._empty

    def put(self, pixels: NDArray[np.uint8]) -> Ref:
        return -1

    def stop(self, actor: None) -> None:
        """Do nothing: there is no process to stop."""

    def set_aside(self, device: Device, actors: Sequence[Any]) -> None:
        """Do nothing: no device fails."""

    def close(self) -> None:
        """Do nothing: there is nothing to close."""


class NoImages:
    """The source of clean images that gives every unit the same array of zeros."""

    def __init__(self, backend: Backend) -> None:
        self._empty = backend.put(np.zeros((1, 3, 8, 8), np.uint8))

    def of(self, unit: Unit, pool: Any) -> Ref:
        return self._empty


@dataclass(frozen=True)
class Loop:
    """The measurements of a loop over units.

    Attributes:
        units: Number of units.
        seconds: Seconds by the clock, for one unit.
        driver: Processor seconds of the driver, for one unit.
        everywhere: Processor seconds of all processes, for one unit.
    """

    units: int
    seconds: float
    driver: float
    everywhere: float

    @classmethod
    def measured(cls, units: int, work: Callable[[], object]) -> Loop:
        clock, driver, everywhere = time.perf_counter(), time.process_time(), processor_seconds()
        work()
        return cls(
            units,
            (time.perf_counter() - clock) / units,
            (time.process_time() - driver) / units,
            (processor_seconds() - everywhere) / units,
        )

    def __str__(self) -> str:
        return f"{1 / self.seconds:6,.0f} units a second, {1e6 * self.driver:5.0f} us of the driver's processor a unit"


def processor_seconds() -> float:
    """Return the processor seconds of this process and of all its descendants that run now."""
    parents, seconds = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        number = int(stat.parent.name)
        parents[number] = int(fields[1])
        seconds[number] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return sum(seconds[one] for one in seconds if os.getpid() in _line(one, parents))


def _line(process: int, parents: dict[int, int]) -> Iterator[int]:
    """Yield the ids of a process and of its ancestors."""
    while process in parents:
        yield process
        process = parents[process]


def nothing_spec(attacks: int, models: int) -> Spec:
    names = [f"x{number}" for number in range(attacks)]
    text = SPEC.replace("NAMES", ", ".join(names))
    recipes = (f"{name}: {{preset: mi, epsilon: {number + 1}}}" for number, name in enumerate(names))
    text = text.replace("ATTACKS", "{" + ", ".join(recipes) + "}")
    known = (f'm{number}: {{network: "timm:test_resnet", weights: "random:{number}"}}' for number in range(models))
    text = text.replace("MODELS", "{" + ", ".join(known) + "}")
    return resolve(parse(text, "nothing")).spec


def plan_of(units: int, models: int) -> Plan:
    """Return a plan of about `units` units with one image each, for `models` models."""
    crafts = CRAFTS // models * models
    spec = nothing_spec(crafts // models, models)
    clean = {name: Clean((0,), (1.0,)) for name in spec.models}
    shards = [
        Shard(number, (Selected(f"{number:06d}", 0, 1, "0" * 64, clean),)) for number in range(max(1, units // crafts))
    ]
    return Plan(spec, dict.fromkeys(spec.models, "0" * 64), shards)


def through_the_loop(backend: Backend, plan: Plan) -> Loop:
    """Execute the units of a plan as a launch does, and return the measurements."""
    spec, units = plan.spec, len(plan.crafts) * len(plan.shards)
    kit = WorkerConfig(spec.models, spec.labels, 3, 0, spec.numerics)
    crew = placement.plan_workers(backend.machines(), None, placement.WorkerOptions())
    scheduler = Scheduler(backend, crew, kit, limits=Limits())
    scheduler.start(lambda: None)
    console = Console(file=io.StringIO())
    with (
        tempfile.TemporaryDirectory() as folder,
        Interrupt() as interrupt,
        Display(console, Style("quiet")) as display,
    ):
        run = RunFolder(Path(folder))
        run.claim()
        display.attach("nothing", run)
        writer = Writer(run, flush_seconds=1, metadata={})
        runtime, images = Runtime(backend, scheduler, display, interrupt), NoImages(backend)
        totals = {"x": units}
        display.started(Started(plan, folder, {}, totals, {}, units, scheduler.workers, "cpu", backend.name))
        rows = RowSink(plan, writer, images, backend)
        attacks = AttackRuns(plan, images, rows, runtime, progress=Progress(totals, {}, units), done={}, rmsd={})
        found = Loop.measured(units, lambda: drive(attacks, runtime))
        assert attacks.outcome.finished == units, attacks.outcome.failures[:1]
        written = pl.scan_parquet(run.results).select(pl.len()).collect().item()
        assert written == plan.pairs, f"{written} rows for {plan.pairs} pairs of unit and target"
        run.release()
    scheduler.stop()
    return found


def bare(units: int) -> Loop:
    """Make the two calls of each unit with Ray alone, and return the measurements.

    Two calls wait or run at each actor, as in the driver.
    """
    import ray

    plan = plan_of(CRAFTS, 1)
    craft = next(iter(plan.crafts.values()))
    job = CraftJob(craft.recipe, craft.goal, craft.key, ("000000",), (0,), (0,), None)
    message, answer = pack((ModelRequest(plan.digests, ()), job)), pack(CraftResult(PixelDistances.zeros(1)))
    empty = np.zeros((1, 3, 8, 8), np.uint8)
    clean = ray.put(empty)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    kind = ray.remote(num_cpus=1)(BareActor)
    actors = [kind.remote(answer, empty) for _ in range(int(ray.cluster_resources()["CPU"]))]
    ray.get([actor.predict.remote(b"", clean) for actor in actors])

    def work() -> None:
        running: dict[Any, tuple[Any, Any]] = {}
        crafted: list[Any] = []
        begun = done = 0

        def give(actor: Any) -> None:
            nonlocal begun
            if crafted:
                running[actor.predict.remote(message, crafted.pop())] = (actor, None)
            elif begun < units:
                begun += 1
                value, pixels = actor.craft.options(num_returns=2).remote(message, clean)
                running[value] = (actor, pixels)

        for actor in actors * 2:
            give(actor)
        while done < units:
            ready, _ = ray.wait(list(running), num_returns=1, fetch_local=False)
            ray.get(ready[0])
            actor, pixels = running.pop(ready[0])
            if pixels is None:
                done += 1
            else:
                crafted.append(pixels)
            give(actor)

    found = Loop.measured(units, work)
    for actor in actors:
        ray.kill(actor)
    return found


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--quick", action="store_true", help="take one minute instead of ten")
    asked.add_argument("--json", action="store_true", help="print only one JSON object on stdout, at the end")
    given = asked.parse_args()
    sizes = (1000, 2000) if given.quick else (1000, 10_000, 100_000)
    say = (lambda line: print(line, file=sys.stderr, flush=True)) if given.json else print
    found: dict[str, float] = {}

    for models, workers in ((1, 2), (1, 200), (20, 2), (20, 200)):
        for size in sizes if models == 1 and workers == 2 else sizes[:-1]:
            loop = through_the_loop(AtOnce(workers), plan_of(size, models))
            say(f"without Ray, {models:2} models, {workers:3} workers, {loop.units:7,} units: {loop}")
            found[f"driver_us_{models}_models_{workers}_workers_{loop.units}"] = round(1e6 * loop.driver, 1)

    with Interrupt() as interrupt:
        backend = bounded(IdleCluster, CallTimeouts(), interrupt, lambda error: say(str(error)))
        for size in sizes:
            before = bare(min(size, BARE_UNITS))
            loop = through_the_loop(backend, plan_of(size, 1))
            after = bare(min(size, BARE_UNITS))
            say(f"on Ray, {size:7,} units: {loop}, {1e6 * loop.everywhere:5.0f} us in all processes")
            for alone in (before, after):
                say(f"Ray alone: {alone}, {1e6 * alone.everywhere:5.0f} us in all processes")
            ratio = statistics.mean((before.seconds, after.seconds)) / loop.seconds
            say(f"units a second, as a share of those of Ray alone: {ratio:.2f}")
            found |= {
                f"units_per_second_{size}": round(1 / loop.seconds, 1),
                f"driver_us_{size}": round(1e6 * loop.driver, 1),
                f"share_of_bare_{size}": round(ratio, 3),
            }
        backend.close()
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
