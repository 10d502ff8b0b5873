"""The program of a small process that outlives the driver, and sees to it that no process of a local Ray does.

Ray's own processes end with the driver, but some of them a minute late where the driver is killed. All of them, and no
others, carry a mark in their environment; once the driver is gone, what still carries it is ended by process id.

It runs by its path, without site packages: it imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

_KILLED_SECONDS = 30.0
_POLL_SECONDS = 0.1
_PROCESSES = Path("/proc")


def reap(mark: str, grace_seconds: float, killed_seconds: float = _KILLED_SECONDS) -> list[int]:
    """Wait `grace_seconds` at most until no process carries `mark`, then kill those that do.

    Returns when they are gone, or with the ids of those that are still there `killed_seconds` later.
    """
    grace = time.monotonic() + grace_seconds
    while carriers := _carriers(mark):
        now = time.monotonic()
        if now > grace + killed_seconds:
            break
        if now > grace:
            for pid in carriers:
                _kill(pid, mark)
        time.sleep(_POLL_SECONDS)
    return carriers


def _kill(pid: int, mark: str) -> None:
    """Kill a process that carries `mark`; not another that has been given its id meanwhile."""
    with contextlib.suppress(OSError):
        held = os.pidfd_open(pid)
        try:
            if _carries(pid, mark):
                signal.pidfd_send_signal(held, signal.SIGKILL)
        finally:
            os.close(held)


def _carriers(mark: str) -> list[int]:
    pids = [int(entry.name) for entry in _PROCESSES.iterdir() if entry.name.isdecimal()] if _PROCESSES.is_dir() else []
    return [pid for pid in pids if pid != os.getpid() and _carries(pid, mark)]


def _carries(pid: int, mark: str) -> bool:
    try:
        return f"={mark}\0".encode() in (_PROCESSES / str(pid) / "environ").read_bytes()
    except OSError:
        return False


if __name__ == "__main__":
    sys.stdin.buffer.read()
    reap(sys.argv[1], float(sys.argv[2]))
