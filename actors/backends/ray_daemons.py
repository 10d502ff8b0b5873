"""Ray's own processes that a driver depends on: which they are, and whether they run."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from actors.backends.interface import BackendGone

_PROCESSES = Path("/proc")
_NAMES = {"raylet": "raylet", "gcs_server": "GCS"}
_SECONDS = 2.0


class Daemons:
    """The raylet that a driver talks to, and the GCS where this process has started it."""

    def __init__(self, raylet_socket: str) -> None:
        """`raylet_socket`: where the raylet listens; who does so need not be a child of this process."""
        self._pids = dict(_children())
        self.owner: str | None = None
        """The user whose raylet it is; None where the system does not say."""
        peer = _peer(raylet_socket)
        if peer is not None:
            pid, user = peer
            self.owner = _name(user)
            if pid:
                self._pids.setdefault("raylet", pid)

    def stopped(self) -> str | None:
        """One that is stopped, for people, or None. Raises BackendGone where one is dead."""
        for name, pid in self._pids.items():
            state = _state(pid)
            if state in "ZX":
                raise BackendGone(
                    f"Ray is gone: its {name} (process {pid}) has died",
                    todo="see whether memory ran out or somebody ended it, then launch again: "
                    "what was published is kept",
                )
            if state in "Tt":
                return f"its {name} (process {pid}), which is stopped,"
        return None


def _children() -> Iterator[tuple[str, int]]:
    """Those that this process has started, by name."""
    for entry in _PROCESSES.iterdir() if _PROCESSES.is_dir() else ():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal():
                before, _, after = (entry / "stat").read_text().rpartition(")")
                name = _NAMES.get(before.partition("(")[2])
                if name is not None and int(after.split()[1]) == os.getpid():
                    yield name, int(entry.name)


def _peer(path: str) -> tuple[int, int] | None:
    """Process and user behind a Unix socket; the process is 0 where it is of another namespace."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as end:
        end.settimeout(_SECONDS)
        end.connect(path)
        pid, user, _ = struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i")))
        return pid, user
    return None


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"number {user}"


def _state(pid: int) -> str:
    """The letter that the system gives: R, S, D, T …; X where there is no such process, S where it does not say."""
    if not _PROCESSES.is_dir():
        return "S"
    try:
        return (_PROCESSES / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"
    except OSError:
        return "S"
