"""`study status`: how a run stands, also while another process works on it."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict
from rich.console import Console

from study.errors import StudyError
from study.planning import resume
from study.planning.plan import Plan
from study.report.failures import of_launch
from study.results import scanning
from study.storage import json_file, part_file
from study.storage.run_folder import RunFolder
from study.terminal.prose import exactly, say
from study.terminal.screen import amount, counted, duration
from study.terminal.status import path_of


def _moment(text: str) -> str:
    """ValueError where the text is no date and time."""
    datetime.fromisoformat(text)
    return text


_STALE_SECONDS = 120.0
_WATCH_SECONDS = 2.0


class _Slot(BaseModel):
    model_config = ConfigDict(extra="allow")

    up: bool


class _Said(BaseModel):
    """What is read of status.json; it has more."""

    model_config = ConfigDict(extra="allow")
    process: int
    host: str
    written: Annotated[str, AfterValidator(_moment)]
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
    """What was asked on the command line."""

    watch: bool = False
    as_json: bool = False


def print_status(run: Path, console: Console, wish: StatusOptions, sleep: Callable[[float], None] = time.sleep) -> None:
    """Print how the run in folder `run` stands; with `watch` again and again, until its launch has ended.

    Raises StudyError where there is no run.
    """
    folder = RunFolder(run)
    while True:
        found = status(folder)
        if wish.as_json:
            exactly(console, json.dumps(found))
        else:
            if wish.watch and console.is_terminal:
                console.clear()
            for line in _lines(found):
                say(console, line)
        if not wish.watch or not found["running"]:
            return
        sleep(_WATCH_SECONDS)


def status(folder: RunFolder) -> dict[str, Any]:
    """How a run stands: whether a launch is `running` on it, what that says of itself (`launch`), and what the rows say
    (`experiments`: units done and in all), which is all that counts once nothing runs.

    Raises StudyError where there is no run.
    """
    said = _said(folder)
    running = said is not None and _alive(said)
    if said is None and not folder.begun and not folder.results.is_dir():
        raise StudyError(
            f"{folder.path} is not the run folder of a study that was launched",
            todo="name the folder of a launched study, such as runs/quickstart",
        )
    found: dict[str, Any] = {"folder": str(folder.path), "running": running, "launch": said, "experiments": {}}
    if running and said is not None and said["phase"] == "crafting":
        found["experiments"] = {
            name: {"done": said["done"].get(name, 0), "units": units} for name, units in said["totals"].items()
        }
    elif folder.begun:
        found["experiments"] = _counted(folder)
    found["failures"] = len(of_launch(folder))
    others = part_file.list_strays(folder.results)
    found["left_alone"] = part_file.describe_strays(others) if others else None
    return found


def _said(folder: RunFolder) -> dict[str, Any] | None:
    """What the last launch wrote of itself; None where none did."""
    try:
        return json_file.read(path_of(folder), _Said, todo="remove it: a launch writes it anew").model_dump()
    except FileNotFoundError:
        return None


def _alive(said: dict[str, Any]) -> bool:
    """Whether the launch goes on: here by its process, elsewhere by how long ago it was heard of."""
    if said["ended"]:
        return False
    if said["host"] == socket.gethostname():
        try:
            os.kill(int(said["process"]), 0)
        except PermissionError:
            return True
        except OSError:
            return False
        return True
    return _age(said) < _STALE_SECONDS


def _age(said: dict[str, Any]) -> float:
    """Seconds since it was written, by this machine's clock."""
    return (datetime.now().astimezone() - datetime.fromisoformat(said["written"])).total_seconds()


def _counted(folder: RunFolder) -> dict[str, dict[str, int]]:
    """Units with all their rows, and units in all, by experiment, from the parts."""
    selection = resume.selected(folder)
    assert selection is not None, "a run that has begun has selected its images"
    digests = {name: model["digest"] for name, model in selection.models.items()}
    plan = Plan(resume.spec_of(folder), digests, selection.shards)
    found = {name: {"done": 0, "units": 0} for name in plan.spec.experiments}
    for craft in plan.crafts.values():
        for name in craft.experiments:
            found[name]["units"] += len(plan.shards)
            found[name]["done"] += len(plan.shards)
    for unit in plan.units(scanning.done(folder.path)):
        for name in unit.craft.experiments:
            found[name]["done"] -= 1
    return found


def _lines(found: dict[str, Any]) -> list[str]:
    said, counts = found["launch"], found["experiments"]
    done, units = (sum(one[key] for one in counts.values()) for key in ("done", "units"))
    lines = [f"{found['folder']}: {_state(found, done, units)}"]
    width = max((len(name) for name in counts), default=0)
    lines += [f"  {name:<{width}}  {one['done']:,}/{one['units']:,} units" for name, one in counts.items()]
    if found["running"]:
        lines += _running(said)
    if found["left_alone"]:
        lines.append(f"  results/: {found['left_alone']}")
    if found["failures"]:
        lines.append(f"  {counted(found['failures'], 'failure')} of the last launch, in failures.json")
    if said is not None and said["error"]:
        lines += ["  the last launch ended with an error:", *(f"    {line}" for line in said["error"].splitlines())]
    return lines


def _state(found: dict[str, Any], done: int, units: int) -> str:
    said = found["launch"]
    share = f"{100 * done // units} % of {units:,} units" if units else "no images are selected yet"
    if found["running"]:
        where = f"process {said['process']} on {said['host']}"
        return f"running ({where}), {said['phase'] if not units else share}, {duration(said['seconds'])}"
    if units and done >= units:
        return f"complete, {units:,} units"
    if said is not None and not said["ended"]:
        return f"stopped without a word after {duration(said['seconds'])}, {share}; launch it again to go on"
    return f"not complete, {share}; launch it again to go on"


def _running(said: dict[str, Any]) -> list[str]:
    rate = (f"{amount(said[f'{what}_per_second'])} {what}/s" for what in ("units", "images", "gradients"))
    left = "" if said["seconds_left"] is None else f", about {duration(said['seconds_left'])} left"
    up = [slot for slot in said["slots"] if slot["up"]]
    lines = [f"  {', '.join(rate)}{left}", f"  {len(up)} of {counted(len(said['slots']), 'actor')} up"]
    trouble = (
        (said["failures"], "failure"),
        (said["lost_actors"], "lost actor"),
        (said["failed_calls"], "failed call"),
        (sum(said.get("repairs", {}).values()), "repair"),
    )
    if any(count for count, _ in trouble):
        lines.append("  " + ", ".join(counted(count, what) for count, what in trouble if count))
    if said["last_failure"]:
        lines.append(f"  last: {said['last_failure']}")
    return lines
