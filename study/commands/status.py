"""`study status`: print the progress of a run, also while another process works on it."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict
from rich.console import Console

from study.errors import StudyError, first_line
from study.geometry import store as probe_store
from study.geometry.plan import GeometryPlan
from study.images.selection import Selection
from study.planning import resume
from study.planning.plan import Plan
from study.process.output import reader_has_gone
from study.report.failures import failures_of_last_launch
from study.results import scanning
from study.results.kept_images import KeptImages
from study.storage import json_file, part_file
from study.storage.no_run import no_run
from study.storage.run_folder import RunFolder
from study.terminal.prose import exactly, say
from study.terminal.screen import amount, counted, duration
from study.terminal.status import path_of


def _iso_time(text: str) -> str:
    """Return `text`. Raises ValueError if `text` is not a date and time in ISO format."""
    datetime.fromisoformat(text)
    return text


_STALE_SECONDS = 120.0
_WATCH_SECONDS = 2.0
_SHOWN_CALLS = 4


class _Slot(BaseModel):
    model_config = ConfigDict(extra="allow")

    up: bool


class _LaunchStatus(BaseModel):
    """The keys of status.json that this command needs."""

    model_config = ConfigDict(extra="allow")
    process: int
    host: str
    written: Annotated[str, AfterValidator(_iso_time)]
    ended: bool
    error: str | None
    phase: str
    totals: dict[str, int]
    done: dict[str, int]
    seconds: float
    seconds_left: float | None
    units_per_second: float
    images_per_second: float
    gradients_per_second: float
    failures: int
    last_failure: str | None
    slots: list[_Slot]
    failed_calls: int
    lost_actors: int


@dataclass(frozen=True)
class StatusOptions:
    """The options of `study status`."""

    watch: bool = False
    as_json: bool = False


def print_status(
    run: str, console: Console, options: StatusOptions, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Print the progress of the run at `run`.

    With `options.watch`, print the progress every two seconds until the launch ends or no process reads the output.
    `sleep` waits between two prints. Raises StudyError if there is no run.
    """
    folder = RunFolder(run)
    while True:
        found = status(folder)
        if options.as_json:
            exactly(console, json.dumps(found))
        else:
            if options.watch and console.is_terminal:
                console.clear()
            for line in _lines(found):
                say(console, line)
        if not options.watch or not found["running"] or reader_has_gone():
            return
        sleep(_WATCH_SECONDS)


def status(folder: RunFolder) -> dict[str, Any]:
    """Return the state of a run as a dict.

    Raises StudyError if there is no run, or if its spec, its selected images or a part of its rows is damaged.

    Keys:

    - `folder`: the path of the run folder.
    - `running`: whether a launch runs.
    - `launch`: the content of the status.json that the last launch wrote; None if there is none.
    - `experiments`: for each experiment and each probe, the number of finished units (`done`) and of all units
      (`units`), counted from the rows. While a launch runs attacks or probes, these are the numbers of the launch, for
      each experiment or each probe.
    - `not_counted`: a message for each kind of result that cannot be counted: probes, which are then not in
      `experiments`, or kept images, without which a unit with all its rows is counted as finished.
    - `failures`: the number of failures in failures.json, which a launch rewrites, except if a signal stops it.
    - `left_alone`: a message about ignored files in the folder of the Parquet files; None if there are none.
    """
    launch = _last_launch(folder)
    running = launch is not None and _alive(launch)
    if launch is None and not folder.begun and not folder.results.is_dir():
        raise no_run(folder.path, f"{folder.path} is not a run folder")
    found: dict[str, Any] = {"folder": str(folder.path), "running": running, "launch": launch, "experiments": {}}
    found["not_counted"] = []
    if running and launch is not None and launch["phase"] == "crafting":
        found["experiments"] = {
            name: {"done": launch["done"].get(name, 0), "units": units} for name, units in launch["totals"].items()
        }
    elif folder.begun:
        found["experiments"], found["not_counted"] = _counted(folder)
    found["failures"] = len(failures_of_last_launch(folder))
    others = part_file.list_strays(folder.results)
    found["left_alone"] = part_file.describe_strays(others) if others else None
    return found


def _last_launch(folder: RunFolder) -> dict[str, Any] | None:
    """Return the content of the status.json that the last launch wrote; None if there is no such file."""
    try:
        return json_file.read(
            path_of(folder), _LaunchStatus, todo="delete it: the next launch writes a new one"
        ).model_dump()
    except FileNotFoundError:
        return None


def _alive(launch: dict[str, Any]) -> bool:
    """Return whether the launch still runs.

    A launch on this host runs if its process exists. A launch on another host runs if its status.json was written less
    than two minutes ago.
    """
    if launch["ended"]:
        return False
    if launch["host"] == socket.gethostname():
        try:
            os.kill(int(launch["process"]), 0)
        except PermissionError:
            return True
        except OSError:
            return False
        return True
    return _age(launch) < _STALE_SECONDS


def _age(launch: dict[str, Any]) -> float:
    """Return the seconds since the launch wrote its status.json, by this machine's clock."""
    return (datetime.now().astimezone() - datetime.fromisoformat(launch["written"])).total_seconds()


def _counted(folder: RunFolder) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Return the number of finished units and of all units of each experiment and probe, and what is not counted.

    A finished unit has all its rows and, if the run keeps images, its images.
    """
    not_counted: list[str] = []
    selection = resume.selected(folder)
    assert selection is not None, "a run that has begun has selected its images"
    digests = {name: model["digest"] for name, model in selection.models.items()}
    plan = Plan(resume.spec_of(folder), digests, selection.shards)
    kept: set[str] | None = None
    try:
        kept = KeptImages(folder).units
    except StudyError as error:
        not_counted.append(f"kept images are not counted: {first_line(error)}")
    found = {name: {"done": 0, "units": 0} for name in plan.spec.experiments}
    for craft in plan.crafts.values():
        for name in craft.experiments:
            found[name]["units"] += len(plan.shards)
            found[name]["done"] += len(plan.shards)
    for unit in plan.units(scanning.done(folder.path), kept=kept):
        for name in unit.craft.experiments:
            found[name]["done"] -= 1
    try:
        found |= _counted_probes(folder, plan, selection)
    except StudyError as error:
        not_counted.append(f"probes are not counted: {first_line(error)}")
    return found, not_counted


def _counted_probes(folder: RunFolder, plan: Plan, selection: Selection) -> dict[str, dict[str, int]]:
    """Return the number of finished units and of all units of each probe.

    Raises StudyError if a probe does not fit the selected images, or if a part of its rows is damaged.
    """
    found = {name: {"done": 0, "units": 0} for name in plan.spec.geometry}
    finished = probe_store.done(folder.path, plan.spec.geometry)
    for probe in GeometryPlan(plan.spec, plan.digests, selection.shards).units():
        found[probe.name]["units"] += 1
        found[probe.name]["done"] += probe.id in finished[probe.name]
    return found


def _lines(found: dict[str, Any]) -> list[str]:
    launch, counts = found["launch"], found["experiments"]
    done, units = (sum(one[key] for one in counts.values()) for key in ("done", "units"))
    lines = [f"{found['folder']}: {_state(found, done, units)}"]
    width = max((len(name) for name in counts), default=0)
    lines += [f"  {name:<{width}}  {one['done']:,}/{one['units']:,} units" for name, one in counts.items()]
    lines += [f"  {problem}" for problem in found["not_counted"]]
    if found["running"]:
        lines += _running(launch)
    if found["left_alone"]:
        lines.append(f"  results/: {found['left_alone']}")
    if found["failures"]:
        lines.append(f"  {counted(found['failures'], 'failure')} recorded in failures.json")
    if launch is not None and launch["error"]:
        lines += ["  the last launch failed:", *(f"    {line}" for line in launch["error"].splitlines())]
    return lines


def _state(found: dict[str, Any], done: int, units: int) -> str:
    launch = found["launch"]
    share = f"{100 * done // units} % of {counted(units, 'unit')} done" if units else "no images are selected yet"
    if found["running"]:
        where = f"process {launch['process']} on {launch['host']}"
        known = share if units and launch["phase"] == "crafting" else _phase(launch)
        return f"running ({where}), {known}, {duration(launch['seconds'])}"
    if units and done >= units and not found["not_counted"]:
        return f"complete, {counted(units, 'unit')}"
    if launch is not None and not launch["ended"]:
        return f"ended unexpectedly after {duration(launch['seconds'])}, {share}; launch the study again to continue"
    if found["not_counted"]:
        return f"not fully counted, {share}; check it: study verify {found['folder']}"
    return f"incomplete, {share}; launch the study again to continue"


def _phase(launch: dict[str, Any]) -> str:
    """Return the phase of a launch as text. A phase before the first unit has a percentage if its steps are counted."""
    total, done = (sum(launch[key].values()) for key in ("totals", "done"))
    started = launch["phase"] in ("crafting", "finishing")
    return str(launch["phase"]) + ("" if started or not total else f", {100 * done // total} %")


def _running(launch: dict[str, Any]) -> list[str]:
    lines = []
    if launch["phase"] == "crafting":
        rate = (f"{amount(launch[f'{what}_per_second'])} {what}/s" for what in ("units", "images", "gradients"))
        left = "" if launch["seconds_left"] is None else f", about {duration(launch['seconds_left'])} left"
        lines.append(f"  {', '.join(rate)}{left}")
    if launch["slots"]:
        up = [slot for slot in launch["slots"] if slot["up"]]
        lines.append(f"  {len(up)} of {counted(len(launch['slots']), 'actor')} up")
        at_work = [f"    {slot['doing']}: {slot['activity']}" for slot in up if slot.get("activity")]
        lines += at_work[:_SHOWN_CALLS]
    trouble = (
        (launch["failures"], "failure"),
        (launch["lost_actors"], "lost actor"),
        (launch["failed_calls"], "failed call"),
        (sum(launch.get("repairs", {}).values()), "repair"),
    )
    if any(count for count, _ in trouble):
        lines.append("  " + ", ".join(counted(count, what) for count, what in trouble if count))
    if launch["last_failure"]:
        lines.append(f"  last failure: {launch['last_failure']}")
    return lines
