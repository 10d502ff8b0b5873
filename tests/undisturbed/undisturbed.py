"""Launches by the console script, and checks that nothing in an undisturbed one mentions trouble."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.events.repairs import WORD
from study.storage.run_folder import RunFolder
from study.terminal import log, status
from study.tracking.tracker import STRIDE
from tests.study.tracking.conftest import synced

TROUBLE = re.compile(
    rf"\b({WORD}|warn\w*|restart\w*|retr(y|ied|ies|ying)|again|once more|died|dead|killed|lost|replaced?|traceback|"
    r"exception|errors?|failed|given up|left out|leaked|from now on|not all|could not|cannot)\b",
    re.IGNORECASE,
)
"""Words that no line of an undisturbed launch contains."""

_LAST_WORDS = re.compile(r"\bagain:\s+study show\b")
_LEVEL = re.compile(r'"level":"(WARN|ERROR)"| (WARNING|ERROR|CRITICAL) +\w+:\d+ ')
_OURS = ("WANDB_", "RAY_", "PYTHON", "PYTEST_")


@dataclass(frozen=True)
class Launched:
    """A finished command: its exit status, its output, and the time at which its process ended."""

    status: int
    printed: str
    ended: float


def launch(*words: object, here: Path, scripts: Path = Path(sys.executable).parent, **more: str) -> Launched:
    """Run `study launch` from the folder `here`, without environment variables that other tests set."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    done = subprocess.run(
        [str(scripts / "study"), "launch", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=here,
        env=environment | more,
        timeout=600,
        check=False,
    )
    return Launched(done.returncode, done.stdout, time.time())


def assert_undisturbed(done: Launched, run: str | Path, *, ended_with: int = 0) -> None:
    """The output, the log and the counts of a launch mention no repair and no error."""
    folder = RunFolder(run)
    assert done.status == ended_with, done.printed
    said = json.loads(status.path_of(folder).read_text())
    assert (said["ended"], said["status"], said["error"]) == (True, ended_with, None)
    assert said["repairs"] == {}
    assert {name: said[name] for name in ("failed_calls", "lost_actors", "repeated", "failures")} == {
        "failed_calls": 0, "lost_actors": 0, "repeated": 0, "failures": 0,
    }  # fmt: skip
    assert not folder.failures.is_file()
    texts = {"the terminal": done.printed, "study.log": log.path_of(folder).read_text()}
    if (folder.tracking / "wandb.log").is_file():
        texts["wandb.log"] = (folder.tracking / "wandb.log").read_text()
    for name, text in texts.items():
        for line in text.splitlines():
            assert not TROUBLE.search(_LAST_WORDS.sub("", line)), f"{name} has: {line}"


def assert_one_whole_run(
    run: str | Path, *, statuses: Sequence[int] = (0,), prefix: str = "offline-run"
) -> list[dict[str, Any]]:
    """What W&B has of launches that ended with `statuses`: a folder for each, all of one run, and without a complaint.

    Uploaded, offline folders give one complete history that ended with the last status, and the artifacts. Returns that
    history: `wandb sync` marks folders as synced, and sends none of them again. It is empty for online runs.
    """
    folder = RunFolder(run)
    name = json.loads(folder.tracked.read_text())["id"]
    folders = [path for path in sorted(folder.tracking.glob("wandb/*run-*")) if not path.is_symlink()]
    assert len(folders) == len(statuses), folders
    assert all(path.name.startswith(prefix) and path.name.endswith(f"-{name}") for path in folders), folders
    for one in (file for path in folders for file in (path / "logs").iterdir()):
        assert not _LEVEL.search(one.read_text()), one
    if prefix != "offline-run":  # the server has it already
        return []
    with synced(run) as service:
        history, there = service.history(name), service.run(name)
    assert there["exit"] == statuses[-1]
    steps = [row["_step"] for row in history]
    units = sum(json.loads(status.path_of(folder).read_text())["totals"].values())
    assert [step for step in steps if step % STRIDE == 0] == [STRIDE * (unit + 1) for unit in range(units)]
    assert steps == sorted(set(steps))
    made = {name: artifact["type"] for name, artifact in there["artifacts"].items()}
    assert {f"study-{name}": "results", f"report-{name}": "report"}.items() <= made.items()
    assert "run_table" in made.values()
    return history


def seconds_after_the_last_unit(done: Launched, run: Path) -> float:
    """Seconds from the last part of a local run to the end of the process."""
    return done.ended - max(path.stat().st_mtime for path in (run / "results").rglob("*.parquet"))


def who_holds_files_of(run: Path) -> list[int]:
    """The ids of the processes that have a file of a run open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(os.readlink(one).startswith(f"{run}/") for one in (process / "fd").iterdir()):
                found.append(int(process.name))
    return found
