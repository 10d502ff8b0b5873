"""The command in a process of its own, and the processes below it, from /proc."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STUDY = [sys.executable, "-m", "cli"]


def start(*words, folder=ROOT, **more) -> subprocess.Popen:
    """Start `study` with these words, without this process's variables for Ray, with the variables `more`."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.Popen(
        [*STUDY, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=environment | more,
        start_new_session=True,
    )


def finish(process: subprocess.Popen, seconds: float = 240) -> tuple[int, str]:
    """Its exit status and its output, once it has ended."""
    try:
        printed, _ = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, printed


def descendants(pid: int) -> set[int]:
    """`pid` and the ids of all processes below it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found, new = set(), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


def alive(pids: set[int]) -> set[int]:
    """Those of `pids` that still run."""
    running = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state not in "ZX":
            running.add(pid)
    return running


def gone(pids: set[int], seconds: float = 20) -> bool:
    """Whether none of `pids` runs any more, within some seconds."""
    deadline = time.monotonic() + seconds
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not alive(pids)


def child(process: subprocess.Popen, name: str, seconds: float = 60) -> int:
    """The id of a process below `process`, by the name of its program or by its title, once it is there."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for pid in descendants(process.pid):
            try:
                entry = Path(f"/proc/{pid}")
                if f"({name})" in (entry / "stat").read_text() or name.encode() in (entry / "cmdline").read_bytes():
                    return pid
            except OSError:
                continue
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    raise AssertionError(f"no {name} below the launch")


def parts(run: Path) -> int:
    return len(list((run / "results").glob("*.parquet")))


def wait_for_parts(run: Path, count: int, process: subprocess.Popen) -> None:
    """Wait until a launch has published `count` parts; a launch that does not is killed."""
    deadline = time.monotonic() + 240
    while parts(run) < count and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    if parts(run) < count:
        process.kill()
        raise AssertionError(f"no rows in time: {process.communicate(timeout=60)[0]}")
