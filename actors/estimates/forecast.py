"""`study plan`: what a spec comes to, and how long it would take on machines that are not there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from actors.backends.interface import Ref
from actors.backends.simulated import Costs, Machines, Simulated
from actors.execution.driver import Driver, Open
from actors.execution.runtime import Runtime
from actors.resources import placement
from actors.scheduling.backlog import Task
from actors.scheduling.limits import Limits
from actors.scheduling.messages import PredictJob
from actors.scheduling.scheduler import Scheduler
from actors.workers.worker_config import WorkerConfig
from study.errors import StudyError
from study.events.observer import Observer
from study.images.image_sets import candidates
from study.images.selection import Clean, Selected, Selection, Shard, cut
from study.planning import plan_size
from study.planning.plan import Plan, Unit
from study.process.interrupt import Interrupt
from study.reproducibility.hashing import digest
from study.spec.loading import SpecFile
from study.spec.schema import Spec
from study.storage import json_file
from study.storage.run_folder import RunFolder
from study.terminal.prose import exactly, say
from study.terminal.screen import counted

_MACHINES = re.compile(r"(?P<nodes>\d{1,6})(?:x(?P<slots>\d{1,6}))?x?(?P<kind>[A-Za-z][\w-]*)?")
_CORES = ("cpu", "cores", "core")


@dataclass(frozen=True)
class Forecast:
    """What a simulated run came to. `seconds` and rates are simulated; the clean pass before is counted for itself."""

    clean_seconds: float
    seconds: float
    busy_share: float
    loading_share: float
    model_loads: int
    most_waiting_bytes: int
    calls_per_second: float
    nodes_lost: int
    units: int


@dataclass(frozen=True)
class ForecastOptions:
    """What was asked on the command line."""

    on: str | None = None
    profile: Path | None = None
    images: int | None = None
    speed: float | None = None
    losses: float = 0.0
    as_json: bool = False
    output: Path | None = None


def print_plan(file: SpecFile, console: Console, asked: ForecastOptions) -> None:
    """Print what a spec comes to. Raises StudyError where the machines or the profile cannot be understood."""
    spec = file.spec
    plan = imagined(spec, _image_count(file, asked))
    folder = RunFolder(asked.output or Path("runs") / spec.study)
    units = len(plan.crafts) * len(plan.shards)
    found: dict[str, Any] = {
        "experiments": plan_size.cells(plan),
        "crafts": len(plan.crafts),
        "units": units,
        **plan_size.totals(plan),
        "probes": plan_size.probes(plan),
        "run": {"folder": str(folder.path), "standing": plan_size.standing(spec, folder)},
    }
    machines, where = _machines(asked) if asked.on is not None else _here(file, asked), asked.on
    if machines is not None:
        costs = _costs(file, asked)
        machines = _of_kind(machines, costs, asked, file)
        where = (where or f"this machine's {counted(machines.slots, 'worker')}") + _basis(costs, asked)
        found["machines"] = asdict(machines)
        found["hardware"] = costs.hardware
        found["forecast"] = asdict(simulate(plan, costs, machines))
    if asked.as_json:
        exactly(console, json.dumps(found))
        return
    _print_counts(spec, found, len(plan.shards), console)
    if where is not None:
        _print_forecast(Forecast(**found["forecast"]), where, console)
    else:
        say(console, f"how long it takes: study profile {file.document.name} measures, and then this says")


def _print_counts(spec: Spec, found: dict[str, Any], shards: int, console: Console) -> None:
    line = (
        f"{spec.study}: {found['crafts']} crafts x {shards} shards = {found['units']} units of {found['images']} images"
    )
    say(console, line)
    table = Table("experiment", "cells", box=None)
    for name, count in found["experiments"].items():
        table.add_row(name, f"{count:,}")
    console.print(table)
    if found["probes"]:
        table = Table("probe", "of", "models", "images", "units", "passes", box=None)
        for name, one in found["probes"].items():
            table.add_row(name, one["probe"], *(f"{one[key]:,}" for key in ("models", "images", "units", "passes")))
        console.print(table)
    say(console, f"{found['gradients']:,} image gradients, {found['predictions']:,} predictions of an image")
    say(console, f"{found['rows']:,} rows, about {_bytes(found['bytes'])} of results")
    folder, standing = found["run"]["folder"], found["run"]["standing"]
    if standing is None:
        say(console, f"{folder}: nothing has begun there")
    elif "unknown" in standing:
        say(console, f"{folder}: what is done there is not known: {standing['unknown']}")
    else:
        say(
            console,
            f"{folder}: {standing['done']:,} of {standing['units']:,} units are done, {standing['left']:,} left",
        )


def _bytes(count: int) -> str:
    size, unit = next((one for one in ((2**30, "GiB"), (2**20, "MiB")) if count >= one[0]), (2**10, "KiB"))
    return f"{count / size:,.1f} {unit}"


def _here(file: SpecFile, asked: ForecastOptions) -> Machines | None:
    """This machine's cores, where the spec's models were measured; None where they were not."""
    if asked.profile is None and not _profile(file, asked).is_file():
        return None
    slots = max(1, (os.cpu_count() or 1) // file.spec.numerics.threads)
    return Machines(1, slots, asked.speed or 1.0, asked.losses, gpus=False)


def _profile(file: SpecFile, asked: ForecastOptions) -> Path:
    return asked.profile or Path("runs") / file.spec.study / "profile.json"


def _print_forecast(found: Forecast, on: str, console: Console) -> None:
    hours, seconds = divmod(found.seconds, 3600)
    lines = [
        f"on {on}: {hours:.0f} h {seconds / 60:.0f} min ({found.seconds:,.0f} s), after a clean pass of "
        f"{found.clean_seconds:,.0f} s",
        f"workers at work {100 * found.busy_share:.1f} % of the time, loading {100 * found.loading_share:.1f} %; "
        f"{found.model_loads:,} model loads; "
        f"{found.calls_per_second:,.1f} calls a second through the driver",
        f"batches that wait for targets: {found.most_waiting_bytes / 2**20:,.0f} MiB at most",
    ]
    if found.nodes_lost:
        lines.append(f"{found.nodes_lost} nodes lost on the way")
    for line in lines:
        say(console, line)


def imagined(spec: Spec, count: int) -> Plan:
    """The plan of a spec for so many images, none of which is read, and models of which nothing is known but names."""
    said = {name: Clean((0,), (1.0,)) for name in spec.models}
    images = [Selected(f"{number:08d}", 0, 1, "0" * 64, said) for number in range(count)]
    selection = Selection(cut(images, spec.run.shard), {})
    return Plan(spec, {name: digest(name) for name in spec.models}, selection.shards)


def simulate(plan: Plan, costs: Costs, machines: Machines, *, seed: int = 0) -> Forecast:
    """Run the very driver, loop and policy on machines that are not there."""
    spec = plan.spec
    backend = Simulated(costs, machines, batch=spec.numerics.batch, seed=seed)
    wish = placement.WorkerOptions(models=spec.run.models_per_actor, per_gpu=1)
    crew = placement.plan_workers(backend.machines(), None, wish, spec.services)
    scheduler = Scheduler(
        backend,
        crew,
        WorkerConfig(spec.models, spec.labels, spec.images.channels, spec.seed, spec.numerics),
        limits=Limits(attempts=1000, start_seconds=1e9, straggler_seconds=spec.run.straggler_seconds),
        elastic=True,
        clock=backend.clock,
    )
    scheduler.start(lambda: None)
    clean_seconds = _clean_pass(plan, scheduler, backend)
    begun, before = backend.now, replace(backend.totals)
    driver = _Imagined(plan, _NoImages(), _NoWriter(), Runtime(backend, scheduler, Observer(), Interrupt()))  # type: ignore[arg-type]
    outcome = driver.run({}, {})
    assert not outcome.failures, "nothing fails in a simulation but machines"
    seconds = backend.now - begun
    return Forecast(
        clean_seconds=clean_seconds,
        seconds=seconds,
        busy_share=(backend.totals.busy - before.busy) / (seconds * crew.workers),
        loading_share=(backend.totals.loading - before.loading) / (seconds * crew.workers),
        model_loads=backend.totals.loads,
        most_waiting_bytes=driver.most_bytes,
        calls_per_second=(backend.totals.calls - before.calls) / seconds,
        nodes_lost=backend.totals.lost,
        units=outcome.finished,
    )


def _clean_pass(plan: Plan, scheduler: Scheduler, backend: Simulated) -> float:
    """Every model predicts all images; the seconds that it takes. Models are loaded on the way."""
    begun, batch = backend.now, plan.spec.numerics.batch
    ids = [one.image for shard in plan.shards for one in shard.images]
    for name in plan.spec.models:
        for start in range(0, len(ids), batch):
            job = PredictJob((name,), batch, tuple(ids[start : start + batch]))
            service = name in plan.spec.services
            scheduler.add(Task("predict", {name: None}, job, lambda: -1, float(len(job.images)), None, service=service))
    while not scheduler.idle:
        scheduler.step(1.0)
    return backend.now - begun


class _Imagined(Driver):
    """A driver that writes no row."""

    most_bytes = 0

    def _finish(self, opened: Open) -> None:
        self.most_bytes = max(self.most_bytes, self._batch_bytes)
        self._outcome.finished += 1
        self._close(opened)


class _NoImages:
    def of(self, unit: Unit, pool: Sequence[Selected]) -> Ref:
        return -1

    def pixels(self, shard: Shard) -> NDArray[np.uint8]:
        raise NotImplementedError("there are no pixels in a simulation")


class _NoWriter:
    def tick(self) -> None:
        """Nothing is buffered."""

    def flush(self) -> None:
        """Nothing is buffered."""


def _image_count(file: SpecFile, asked: ForecastOptions) -> int:
    if asked.images or file.spec.images.count:
        return asked.images or file.spec.images.count or 1
    try:
        return len(candidates(file.spec.images, file.spec.seed))
    except StudyError as error:
        error.todo = f"{error.todo}; or say how many images with --images" if error.todo else "give --images"
        raise error.located(file.where("images")) from None


def _machines(asked: ForecastOptions) -> Machines:
    found = _MACHINES.fullmatch(asked.on or "")
    if found is None or int(found["nodes"]) < 1 or int(found["slots"] or 1) < 1:
        raise StudyError(
            f"'{asked.on}' names no machines",
            where="--on",
            accepted="64xH100 (64 slots), 8x4xA100 (8 nodes of 4 slots), 16xcpu",
        )
    nodes, slots = int(found["nodes"]), int(found["slots"] or 1)
    gpus = (found["kind"] or "").lower() not in _CORES
    return Machines(nodes, slots, asked.speed or 1.0, asked.losses, gpus=gpus)


def _of_kind(machines: Machines, costs: Costs, asked: ForecastOptions, file: SpecFile) -> Machines:
    """The machines, if the costs were measured on their kind. Raises StudyError where nothing is known of them.

    With `--speed` the user says how they differ from what was measured.
    """
    kind = (_MACHINES.fullmatch(asked.on or "") or {"kind": None})["kind"]
    on_cores = costs.hardware.startswith("cpu:")
    if kind is None:
        return replace(machines, gpus=not on_cores)
    same = on_cores if kind.lower() in _CORES else kind.lower() in costs.hardware.lower()
    if same or asked.speed is not None:
        return machines
    raise StudyError(
        f"the costs in {_profile(file, asked)} were measured on {costs.hardware or 'unknown hardware'}, and say "
        f"nothing of {kind}",
        where=f"--on {asked.on}",
        accepted="machines of the kind that was measured, or --speed: how many times as fast the others are",
        todo=f"measure on a {kind} with `study profile`, and name that file with --profile",
    )


def _basis(costs: Costs, asked: ForecastOptions) -> str:
    """What a time is computed from, for people."""
    speed = f", {asked.speed:g} times as fast as measured" if asked.speed is not None else ""
    return f" (costs of {costs.hardware or 'unknown hardware'}{speed})"


def _costs(file: SpecFile, asked: ForecastOptions) -> Costs:
    path = _profile(file, asked)
    measure = f"study profile {file.document.name}, or name another with --profile"
    try:
        costs = json_file.read(path, Costs, todo=measure)
    except FileNotFoundError:
        raise StudyError(
            f"there is no profile {path}", accepted="what `study profile` has written", todo=measure
        ) from None
    missing = [name for name in file.spec.models if not {name} <= {*costs.predict} & {*costs.load}]
    missing += [name for name in file.spec.sources() if name not in costs.gradient]
    if missing:
        raise StudyError(f"the profile {path} does not have model '{missing[0]}'", todo="measure again: study profile")
    numbers = [*costs.gradient.values(), *costs.predict.values(), *costs.load.values()]
    if not all(np.isfinite(one) and one >= 0 for one in (*numbers, costs.call, costs.driver, costs.start)):
        raise StudyError(f"the profile {path} has numbers that are no seconds", todo=measure)
    return costs
