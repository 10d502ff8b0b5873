"""`study plan`: count the work in a spec and estimate its duration, optionally on simulated machines."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from actors.backends.simulated import Costs, Machines
from actors.estimates.simulation import Forecast, plan_without_images, simulate
from study.errors import StudyError
from study.images.image_sets import Candidate, candidates
from study.planning import plan_size
from study.planning.standing import standing_lines, standing_of
from study.spec.schema import Spec
from study.spec.spec_file import SpecFile
from study.storage import json_file
from study.storage.run_folder import RunFolder
from study.terminal.prose import exactly, say
from study.terminal.screen import counted

_MACHINES = re.compile(r"(?P<nodes>\d{1,6})(?:x(?P<slots>\d{1,6}))?x?(?P<kind>[A-Za-z][\w-]*)?")
_CORES = ("cpu", "cores", "core")


@dataclass(frozen=True)
class ForecastOptions:
    """The command line of `study plan`."""

    on: str | None = None
    profile: Path | None = None
    images: int | None = None
    speed: float | None = None
    losses: float = 0.0
    as_json: bool = False
    output: Path | None = None


def print_plan(file: SpecFile, console: Console, options: ForecastOptions) -> None:
    """Print counts and duration. Raises StudyError where the machines or the profile cannot be understood."""
    spec = file.spec
    plan = plan_without_images(spec, _image_count(file, options))
    folder = RunFolder(options.output or Path("runs") / spec.study)
    units = len(plan.crafts) * len(plan.shards)
    found: dict[str, Any] = {
        "experiments": plan_size.cells(plan),
        "crafts": len(plan.crafts),
        "units": units,
        **plan_size.totals(plan),
        "probes": plan_size.probes(plan),
        "run": {"folder": str(folder.path), "standing": _standing(file, folder)},
    }
    machines, where = _machines(options) if options.on is not None else _here(file, options), options.on
    if machines is not None:
        costs = _costs(file, options)
        machines = _of_kind(machines, costs, options, file)
        where = (where or f"this machine's {counted(machines.slots, 'worker')}") + _basis(costs, options)
        found["machines"] = asdict(machines)
        found["hardware"] = costs.hardware
        found["forecast"] = asdict(simulate(plan, costs, machines))
    if options.as_json:
        exactly(console, json.dumps(found))
        return
    _print_counts(spec, found, len(plan.shards), console)
    if where is not None:
        _print_forecast(Forecast(**found["forecast"]), where, console)
    else:
        say(console, f"for the duration, measure first: study profile {file.document.name}")


def _print_counts(spec: Spec, found: dict[str, Any], shards: int, console: Console) -> None:
    line = (
        f"{spec.study}: {counted(found['crafts'], 'attack run')} x {counted(shards, 'shard')} = "
        f"{counted(found['units'], 'unit')}; {counted(found['images'], 'image')}"
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
    say(console, f"{found['gradients']:,} image gradients, {found['predictions']:,} predictions (one image each)")
    say(console, f"{found['rows']:,} rows, about {_bytes(found['bytes'])} on disk")
    for line in standing_lines(**found["run"]):
        say(console, line)


def _standing(file: SpecFile, folder: RunFolder) -> dict[str, Any] | None:
    """The standing of the spec in its run folder, as plain data, also where a launch would refuse the folder."""

    def found() -> list[Candidate] | None:
        try:
            return candidates(file.spec.images, file.spec.seed)
        except StudyError:
            return None

    try:
        return standing_of(file, folder, found)
    except StudyError as error:
        return {"refused": {"what": error.what, "where": error.where, "todo": error.todo}}


def _bytes(count: int) -> str:
    size, unit = next((one for one in ((2**30, "GiB"), (2**20, "MiB")) if count >= one[0]), (2**10, "KiB"))
    return f"{count / size:,.1f} {unit}"


def _here(file: SpecFile, options: ForecastOptions) -> Machines | None:
    """The cores of this machine; None where the models of the spec have no profile."""
    if options.profile is None and not _profile(file, options).is_file():
        return None
    slots = max(1, (os.cpu_count() or 1) // file.spec.numerics.threads)
    return Machines(1, slots, options.speed or 1.0, options.losses, gpus=False)


def _profile(file: SpecFile, options: ForecastOptions) -> Path:
    return options.profile or Path("runs") / file.spec.study / "profile.json"


def _print_forecast(found: Forecast, on: str, console: Console) -> None:
    hours, seconds = divmod(found.seconds, 3600)
    lines = [
        f"on {on}: {hours:.0f} h {seconds / 60:.0f} min ({found.seconds:,.0f} s), after a clean pass of "
        f"{found.clean_seconds:,.0f} s",
        f"workers busy {100 * found.busy_share:.1f} % of the time, loading {100 * found.loading_share:.1f} %; "
        f"{counted(found.model_loads, 'model load')}; "
        f"{found.calls_per_second:,.1f} calls per second",
        f"images that wait for targets: {found.most_waiting_bytes / 2**20:,.0f} MiB at most",
    ]
    if found.nodes_lost:
        lines.append(f"{counted(found.nodes_lost, 'node')} lost")
    for line in lines:
        say(console, line)


def _image_count(file: SpecFile, options: ForecastOptions) -> int:
    if options.images or file.spec.images.count:
        return options.images or file.spec.images.count or 1
    try:
        return len(candidates(file.spec.images, file.spec.seed))
    except StudyError as error:
        error.todo = f"{error.todo}; or give their number with --images" if error.todo else "give --images"
        raise error.located(file.where("images")) from None


def _machines(options: ForecastOptions) -> Machines:
    found = _MACHINES.fullmatch(options.on or "")
    if found is None or int(found["nodes"]) < 1 or int(found["slots"] or 1) < 1:
        raise StudyError(
            f"'{options.on}' is not a description of machines",
            where="--on",
            accepted="64xH100 (64 slots), 8x4xA100 (8 nodes of 4 slots), 16xcpu",
        )
    nodes, slots = int(found["nodes"]), int(found["slots"] or 1)
    gpus = (found["kind"] or "").lower() not in _CORES
    return Machines(nodes, slots, options.speed or 1.0, options.losses, gpus=gpus)


def _of_kind(machines: Machines, costs: Costs, options: ForecastOptions, file: SpecFile) -> Machines:
    """Check that the costs were measured on the same kind of machine, or that `--speed` gives the ratio.

    Raises StudyError otherwise.
    """
    kind = (_MACHINES.fullmatch(options.on or "") or {"kind": None})["kind"]
    on_cores = costs.hardware.startswith("cpu:")
    if kind is None:
        return replace(machines, gpus=not on_cores)
    same = on_cores if kind.lower() in _CORES else kind.lower() in costs.hardware.lower()
    if same or options.speed is not None:
        return machines
    raise StudyError(
        f"the costs in {_profile(file, options)} were measured on {costs.hardware or 'unknown hardware'}, not on "
        f"{kind}",
        where=f"--on {options.on}",
        accepted="machines of the measured kind, or --speed: how many times as fast the others are",
        todo=f"run `study profile` on {kind}, and name its file with --profile",
    )


def _basis(costs: Costs, options: ForecastOptions) -> str:
    """The costs that a duration is computed from."""
    speed = f", {options.speed:g} times as fast as measured" if options.speed is not None else ""
    return f" (costs of {costs.hardware or 'unknown hardware'}{speed})"


def _costs(file: SpecFile, options: ForecastOptions) -> Costs:
    path = _profile(file, options)
    measure = f"run `study profile {file.document.name}`, or name another profile with --profile"
    try:
        costs = json_file.read(path, Costs, todo=measure)
    except FileNotFoundError:
        raise StudyError(
            f"there is no profile {path}", accepted="a file that `study profile` wrote", todo=measure
        ) from None
    missing = [name for name in file.spec.models if not {name} <= {*costs.predict} & {*costs.load}]
    missing += [name for name in file.spec.sources() if name not in costs.gradient]
    if missing:
        raise StudyError(f"the profile {path} lacks model '{missing[0]}'", todo="run `study profile` again")
    numbers = [*costs.gradient.values(), *costs.predict.values(), *costs.load.values()]
    if not all(np.isfinite(one) and one >= 0 for one in (*numbers, costs.call, costs.driver, costs.start)):
        raise StudyError(f"the profile {path} has times that are negative or not finite", todo=measure)
    return costs
