"""The command `study plan`: counts the work in a spec, and estimates how long the work takes on given machines."""

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
from study.process import children
from study.reproducibility.hardware import processor_here
from study.spec.schema import Spec
from study.spec.spec_file import SpecFile
from study.storage import json_file
from study.storage.run_folder import RunFolder
from study.terminal.prose import exactly, say
from study.terminal.screen import counted

_MACHINES = re.compile(r"(?P<nodes>\d{1,6})(?:x(?P<slots>\d{1,6}))?x?(?P<kind>[A-Za-z][\w-]*)?")
_CORES = ("cpu", "cores", "core")
_GPUS = ("gpu", "gpus")
_SMI_SECONDS = 10.0


@dataclass(frozen=True)
class ForecastOptions:
    """The options of `study plan`.

    Attributes:
        on: The machines for which the duration is estimated, such as `64xH100`; None for this machine.
        profile: The file that `study profile` wrote; None for `runs/<study>/profile.json`.
        images: Number of images; None for the number in the spec, or in the image set.
        speed: Speed of the machines relative to the machine that was measured; None if it is not given.
        losses: Share of the machines that are lost per hour.
        as_json: Whether the output is JSON.
        output: The run folder; None for `runs/<study>`.
    """

    on: str | None = None
    profile: Path | None = None
    images: int | None = None
    speed: float | None = None
    losses: float = 0.0
    as_json: bool = False
    output: Path | None = None


def print_plan(file: SpecFile, console: Console, options: ForecastOptions) -> None:
    """Print how much work a spec has and how long the work takes.

    Raises StudyError if `--on` or the profile is not valid, or if the number of images is unknown.
    """
    spec = file.spec
    count = _image_count(file, options)
    basis = _on(file, options) if options.on is not None else _here(file, options)
    plan = plan_without_images(spec, count, basis.machines if isinstance(basis, _Basis) else None)
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
    if isinstance(basis, _Basis):
        found["machines"] = asdict(basis.machines)
        found["hardware"] = basis.costs.hardware
        found["forecast"] = asdict(simulate(plan, basis.costs, basis.machines))
    if options.as_json:
        exactly(console, json.dumps(found))
        return
    _print_counts(spec, found, len(plan.shards), console)
    if isinstance(basis, _Basis):
        _print_forecast(Forecast(**found["forecast"]), _described(basis, options), console)
        if line := _other_numerics(basis.costs, spec):
            say(console, line)
    else:
        say(console, f"{basis}to get a duration, measure the models first: study profile {file.document.name}")


@dataclass(frozen=True)
class _Basis:
    """The basis of an estimated duration: machines, measured costs, and a name of the machines for the output."""

    machines: Machines
    costs: Costs
    name: str


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
    """Compare the spec with its run folder, and return as plain data what is new, done and left.

    If a launch would refuse the spec, the data have only the key `refused`, with the error. Returns None if no launch
    has selected images yet.
    """

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


def _on(file: SpecFile, options: ForecastOptions) -> _Basis:
    """Return the machines of `--on`, with their costs. Raises StudyError if `--on` or the profile is not valid."""
    machines, costs = _machines(options), _costs(file, options)
    return _Basis(_of_kind(machines, costs, options, file), costs, options.on or "")


def _here(file: SpecFile, options: ForecastOptions) -> _Basis | str:
    """Return this machine with its costs, or a text for the user that says why there is no estimate.

    The costs must have been measured on this kind of machine, or `--speed` must give the ratio of the speeds. If there
    is no profile, the text is empty.
    """
    if options.profile is None and not _profile(file, options).is_file():
        return ""
    costs, gpus = _costs(file, options), gpu_names()
    mine = [processor_here()] if costs.on_cores else gpus
    if options.speed is None and (not costs.names or set(costs.names) != set(mine)):
        known = costs.hardware or "unknown hardware"
        return f"no duration: {_profile(file, options)} holds for {known}, and this machine has {_or_none(mine)}; "
    slots = len(gpus) if gpus and not costs.on_cores else max(1, (os.cpu_count() or 1) // file.spec.numerics.threads)
    machines = Machines(1, slots, options.speed or 1.0, options.losses, gpus=not costs.on_cores)
    return _Basis(machines, costs, f"this machine's {counted(slots, 'worker')}")


def gpu_names() -> list[str]:
    """Return the names of this machine's GPUs, from nvidia-smi. The list is empty without nvidia-smi."""
    listed = children.command_output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], _SMI_SECONDS)
    return [line.strip() for line in (listed or "").splitlines() if line.strip()]


def _or_none(names: list[str]) -> str:
    return ", ".join(dict.fromkeys(names)) or "no GPU"


def _other_numerics(costs: Costs, spec: Spec) -> str | None:
    """Return a warning that names each value of `numerics:` in the spec that differs from the profile.

    Returns None if no value differs.
    """
    now = spec.numerics.model_dump(mode="json")
    other = [
        f"{key} {then} instead of {now[key]}" for key, then in costs.numerics.items() if now.get(key, then) != then
    ]
    return f"warning: the profile was measured with other numerics: {', '.join(other)}" if other else None


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
        error.todo = f"{error.todo}; or give the number of images with --images" if error.todo else "give --images"
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
    """Return `machines`, after a check that they are of the kind on which the costs were measured.

    The result has the measured kind of device (processor or GPU). With `--speed`, machines of another kind are
    accepted, and keep their kind. Without `--speed`, StudyError is raised if the kinds differ, or if the profile names
    no hardware.
    """
    kind = (_MACHINES.fullmatch(options.on or "") or {"kind": None})["kind"]
    if costs.names and _is_of(kind, costs):
        return replace(machines, gpus=not costs.on_cores)
    if options.speed is not None:
        return machines if kind or not costs.names else replace(machines, gpus=not costs.on_cores)
    if not costs.names:
        raise StudyError(
            f"the profile {_profile(file, options)} is of an early version and does not name its hardware",
            where=f"--on {options.on}",
            accepted="a profile that names its hardware, or --speed (speed relative to the measured hardware)",
            todo=f"run `study profile {file.document.name}` on the machines of --on, or give --speed 1 if the "
            "profile was measured on such machines",
        )
    raise StudyError(
        f"the costs in {_profile(file, options)} were measured on {costs.hardware}, not on {kind}",
        where=f"--on {options.on}",
        accepted="machines of the measured kind, or --speed (speed relative to the measured hardware)",
        todo=f"run `study profile` on {kind}, and pass the file that it writes: --profile <file>",
    )


def _is_of(kind: str | None, costs: Costs) -> bool:
    """Return whether `kind` names the hardware on which the costs were measured; True if `kind` is None.

    `kind` is `cpu`, `gpu`, or a name such as `H100`. All words of such a name must occur in the name of every measured
    processor or GPU.
    """
    if kind is None:
        return True
    if kind.lower() in (*_CORES, *_GPUS):
        return costs.on_cores == (kind.lower() in _CORES)
    return all(_words(kind) <= _words(name) for name in costs.names)


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower()))


def _described(basis: _Basis, options: ForecastOptions) -> str:
    """Return a text that names the machines, and the hardware on which the costs were measured."""
    costs = basis.costs
    memory = f", {costs.memory / 2**30:.0f} GiB" if costs.memory else ""
    torch = f", torch {costs.torch}" if costs.torch else ""
    speed = f", {options.speed:g} times as fast as measured" if options.speed is not None else ""
    return f"{basis.name} (costs of {costs.hardware or 'unknown hardware'}{memory}{torch}{speed})"


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
        raise StudyError(f"the profile {path} has no times for model '{missing[0]}'", todo="run `study profile` again")
    numbers = [*costs.gradient.values(), *costs.predict.values(), *costs.load.values()]
    if not all(np.isfinite(one) and one >= 0 for one in (*numbers, costs.call, costs.driver, costs.start)):
        raise StudyError(f"the profile {path} has times that are negative or not finite", todo=measure)
    return costs
