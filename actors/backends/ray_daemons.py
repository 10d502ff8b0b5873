"""Checks whether the processes of Ray on which a driver depends still run: the raylet and the GCS."""

from __future__ import annotations

import contextlib
import math
import os
import pwd
import select
import socket
import struct
import time
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

from actors.backends.interface import BackendGone

_PROCESSES = Path("/proc")
_NAMES = {"raylet": "raylet", "gcs_server": "GCS"}
CHECK_SECONDS = 0.002
"""Shortest time between two looks at the processes."""
_CONNECT_SECONDS = 2.0


class Daemons:
    """The raylet with which the driver communicates, and the GCS if the driver has started it."""

    def __init__(self, raylet_socket: str) -> None:
        """`raylet_socket`: the path of the raylet's Unix socket. The raylet need not be a child of this process."""
        self._pids = dict(_children())
        self.owner: str | None = None
        """The user who runs the raylet; None if unknown."""
        peer = _peer(raylet_socket)
        if peer is not None:
            pid, user = peer
            self.owner = _user_name(user)
            if pid:
                self._pids.setdefault("raylet", pid)
        self._ends = _Ends(self._pids.values())
        self._checked = -math.inf

    def check(self) -> None:
        """Raise BackendGone if a daemon has died.

        This is called several times for each unit, so it looks at the processes at most once in `CHECK_SECONDS`.
        """
        now = time.monotonic()
        if now - self._checked < CHECK_SECONDS:
            return
        if self._ends.any:
            self.stopped()
        self._checked = now

    def stopped(self) -> str | None:
        """Return a description of a daemon that is stopped (SIGSTOP), or None if no daemon is.

        Raises BackendGone if a daemon has died.
        """
        for name, pid in self._pids.items():
            state = _state(pid)
            if state in "ZX":
                raise BackendGone(
                    f"Ray is gone: its {name} (process {pid}) has died",
                    todo="check whether memory ran out or the process was killed, then launch again: "
                    "published results are kept",
                )
            if state in "Tt":
                return f"its {name} (process {pid}), which is stopped,"
        return None


class _Ends:
    """Finds out with one system call whether one of several processes has ended."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._known = hasattr(os, "pidfd_open") and hasattr(select, "epoll")
        if not self._known:
            return
        # Several threads may poll an epoll object at once, unlike other objects of `select`.
        self._ended = select.epoll()
        for pid in pids:
            try:
                descriptor = os.pidfd_open(pid)
            except OSError:
                # The process has ended already, or the system forbids the call. `check` then looks at each process
                # instead.
                self._known = False
                return
            # The descriptor becomes readable when the process ends, even before the parent process asks for its exit
            # status.
            self._ended.register(descriptor, select.EPOLLIN)
            weakref.finalize(self, os.close, descriptor)

    @property
    def any(self) -> bool:
        """Whether one of the processes has ended; also True if the system cannot tell."""
        return not self._known or bool(self._ended.poll(0))


def _children() -> Iterator[tuple[str, int]]:
    """Yield the name and the process id of each of Ray's daemons that this process has started."""
    for entry in _PROCESSES.iterdir() if _PROCESSES.is_dir() else ():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal():
                before, _, after = (entry / "stat").read_text().rpartition(")")
                name = _NAMES.get(before.partition("(")[2])
                if name is not None and int(after.split()[1]) == os.getpid():
                    yield name, int(entry.name)


def _peer(path: str) -> tuple[int, int] | None:
    """Return the process id and the user id of the process that listens at a Unix socket; None if unknown.

    The process id is 0 if that process is in another namespace.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as end:
        end.settimeout(_CONNECT_SECONDS)
        end.connect(path)
        pid, user, _ = struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i")))
        return pid, user
    return None


def _user_name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"number {user}"


def _state(pid: int) -> str:
    """Return the letter with which Linux describes the state of a process, such as R (running) or T (stopped).

    Returns X if the process is gone, and S (sleeping) if its state is unknown.
    """
    if not _PROCESSES.is_dir():
        return "S"
    try:
        return (_PROCESSES / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"
    except OSError:
        return "S"
