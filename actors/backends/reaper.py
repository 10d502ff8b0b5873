"""The program of a small process that outlives the driver, and sees to it that no process of a local Ray does.

Ray's own processes end with the driver, but some of them a minute late where the driver is killed. Those that the
driver starts carry a mark in their environment; once the driver is gone, they and what they have started are ended by
process id. Some rename themselves, which can overwrite their whole environment, and lose their parent before they end:
so those that belong to Ray are noted while their parents live.

It runs by its path, without site packages: it imports nothing but the standard library.
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
_NOTE_SECONDS = 1.0
_PROCESSES = Path("/proc")


def reap(
    mark: str, grace_seconds: float, killed_seconds: float = _KILLED_SECONDS, noted: dict[int, int] | None = None
) -> list[int]:
    """Wait `grace_seconds` at most until no process is marked, descends from one that is, or is `noted`; then kill.

    Returns when they are gone, or with the ids of those that are still there `killed_seconds` later.
    """
    known = {} if noted is None else noted
    grace = time.monotonic() + grace_seconds
    while left := note(mark, known):
        now = time.monotonic()
        if now > grace + killed_seconds:
            break
        if now > grace:
            for pid, began in left.items():
                _kill(pid, began)
        time.sleep(_POLL_SECONDS)
    return list(left)


def note(mark: str, known: dict[int, int]) -> dict[int, int]:
    """When each began that is marked, descends from one that is, or is in `known`; which is brought up to date."""
    alive = _alive()
    ours = {pid for pid, (_, began) in alive.items() if known.get(pid) == began or _carries(pid, mark)}
    new = ours
    while new:
        new = {pid for pid, (parent, _) in alive.items() if parent in new} - ours
        ours |= new
    known.clear()
    known.update({pid: alive[pid][1] for pid in ours if pid != os.getpid()})
    return known


def _alive() -> dict[int, tuple[int, int]]:
    """The parent of each process that runs, and when it began, in ticks of the machine's clock."""
    found = {}
    for entry in _PROCESSES.iterdir() if _PROCESSES.is_dir() else ():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError, ValueError):
                words = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if words[0] not in "ZX":
                    found[int(entry.name)] = (int(words[1]), int(words[19]))
    return found


def _kill(pid: int, began: int) -> None:
    """Kill a process; not another that has been given its id meanwhile."""
    with contextlib.suppress(OSError):
        held = os.pidfd_open(pid)
        try:
            if _alive().get(pid, (0, -1))[1] == began:
                signal.pidfd_send_signal(held, signal.SIGKILL)
        finally:
            os.close(held)


def _carries(pid: int, mark: str) -> bool:
    try:
        return f"={mark}\0".encode() in (_PROCESSES / str(pid) / "environ").read_bytes()
    except OSError:
        return False


if __name__ == "__main__":
    noted: dict[int, int] = {}
    while not select.select([sys.stdin], [], [], _NOTE_SECONDS)[0]:
        note(sys.argv[1], noted)
    reap(sys.argv[1], float(sys.argv[2]), noted=noted)
