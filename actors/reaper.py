"""A small process that outlives the driver, and sees to it that no process of a local Ray does.

Ray's own processes end with the driver, but some of them a minute late where the driver is killed. All of them carry a
mark in their environment; once the driver is gone, whatever still carries it is ended by process id.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

# Ray's agents rename themselves, which overwrites some of their environment: of many marks, most are left.
_MARKS = tuple(f"STUDY_LOCAL_RAY_{index}" for index in range(64))
_GRACE_SECONDS = 3.0
_PROCESSES = Path("/proc")


class Reaper:
    """Started before Ray; `close` after it."""

    def __init__(self) -> None:
        mark = uuid.uuid4().hex
        unmarked = dict(os.environ)
        os.environ.update(dict.fromkeys(_MARKS, mark))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "actors.reaper", mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=unmarked,
        )

    def close(self) -> None:
        """Returns when every process of the local Ray is gone."""
        for name in _MARKS:
            os.environ.pop(name, None)
        assert self._process.stdin is not None, "it was started with a pipe"
        self._process.stdin.close()
        self._process.wait()


def reap(mark: str, grace_seconds: float) -> None:
    """Wait `grace_seconds` at most until no process carries `mark`, then end those that do."""
    deadline = time.monotonic() + grace_seconds
    while carriers := _carriers(mark):
        if time.monotonic() > deadline:
            for pid in carriers:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def _carriers(mark: str) -> list[int]:
    wanted = f"={mark}\0".encode()
    found = []
    for entry in _PROCESSES.iterdir() if _PROCESSES.is_dir() else ():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                carries = wanted in (entry / "environ").read_bytes()
            except OSError:
                continue
            if carries:
                found.append(int(entry.name))
    return found


if __name__ == "__main__":
    sys.stdin.buffer.read()
    reap(sys.argv[1], _GRACE_SECONDS)
