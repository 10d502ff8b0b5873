"""The program of a small process that outlives the driver and ends every process of the driver's local Ray.

Ray's own processes end with the driver. But if the driver was killed, some of them take a minute to end.

The processes of a local Ray carry a mark in their environment. Once the driver is gone, this program ends the marked
processes and their descendants by process id, and no other process. Some of Ray's processes rename themselves, which
can overwrite their whole environment. Their parents may also end before them. So the program notes the ids of Ray's
processes while their parents still run.

After an orderly shutdown of Ray, the driver writes a byte to the standard input of this program. The remaining
processes then have nothing to finish, and get less time to end.

The driver runs this file by its path, without site packages. So it imports only the standard library.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path

_KILLED_SECONDS = 30.0
_POLL_SECONDS = 0.1
_ORDERLY_SECONDS = 0.3
"""Seconds that Ray's remaining processes have to end by themselves after an orderly shutdown."""
_NOTE_SECONDS = 1.0
_PROCESSES = Path("/proc")


def reap(
    mark: str, grace_seconds: float, killed_seconds: float = _KILLED_SECONDS, noted: dict[int, int] | None = None
) -> list[int]:
    """Wait until no process of Ray is left. After `grace_seconds`, kill the remaining processes.

    Returns the ids of the processes that still exist `killed_seconds` later; usually there are none. `mark`: the mark
    in the environment of Ray's processes. `noted`: the start times of known processes of Ray, by process id (see
    `note`).
    """
    known = {} if noted is None else noted
    grace = time.monotonic() + grace_seconds
    while left := note(mark, known):
        now = time.monotonic()
        if now > grace + killed_seconds:
            break
        if now > grace:
            for pid, started in left.items():
                _kill(pid, started)
        time.sleep(_POLL_SECONDS)
    return list(left)


def note(mark: str, known: dict[int, int]) -> dict[int, int]:
    """Update `known`, the start times of Ray's processes by process id, and return `known`.

    Afterwards, `known` has the running processes that carry the mark or were known before, and all their descendants.
    """
    alive = _alive()
    ours = {pid for pid, (_, started) in alive.items() if known.get(pid) == started or _has_mark(pid, mark)}
    new = ours
    while new:
        new = {pid for pid, (parent, _) in alive.items() if parent in new} - ours
        ours |= new
    known.clear()
    known.update({pid: alive[pid][1] for pid in ours if pid != os.getpid()})
    return known


def _alive() -> dict[int, tuple[int, int]]:
    """Return the parent's id and the start time (clock ticks since boot) of each running process, by process id."""
    found = {}
    for entry in _PROCESSES.iterdir() if _PROCESSES.is_dir() else ():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError, ValueError):
                words = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if words[0] not in "ZX":
                    found[int(entry.name)] = (int(words[1]), int(words[19]))
    return found


def _kill(pid: int, started: int) -> None:
    """Kill the process `pid` that started at `started`. Do nothing if the id belongs to another process by now."""
    with contextlib.suppress(OSError):
        descriptor = os.pidfd_open(pid)
        try:
            if _alive().get(pid, (0, -1))[1] == started:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


def _has_mark(pid: int, mark: str) -> bool:
    try:
        return f"={mark}\0".encode() in (_PROCESSES / str(pid) / "environ").read_bytes()
    except OSError:
        return False


if __name__ == "__main__":
    noted: dict[int, int] = {}
    while not select.select([sys.stdin], [], [], _NOTE_SECONDS)[0]:
        note(sys.argv[1], noted)
    orderly = os.read(sys.stdin.fileno(), 1) != b""
    reap(sys.argv[1], min(_ORDERLY_SECONDS, float(sys.argv[2])) if orderly else float(sys.argv[2]), noted=noted)
