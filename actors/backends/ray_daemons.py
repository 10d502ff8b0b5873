"""Checks whether the processes of Ray on which a driver depends still run: the raylet and the GCS.

The driver checks before each call, because Ray ends the driver's process without a message if a call finds the raylet
dead. If the raylet dies during a call, a helper process (`witness.py`) prints the message.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pwd
import select
import socket
import struct
import subprocess
import sys
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

from actors.backends import witness
from actors.backends.interface import BackendGone
from study.process import children

_PROCESSES = Path("/proc")
_NAMES = {"raylet": "raylet", "gcs_server": "GCS"}
_CONNECT_SECONDS = 2.0
_FAREWELL_SECONDS = 2.0


class Daemons:
    """The raylet with which the driver communicates, and the GCS if the driver has started it."""

    def __init__(self, raylet_socket: str, errors: int | None = None) -> None:
        """`raylet_socket`: the path of the raylet's Unix socket. The raylet need not be a child of this process.

        `errors`: the file descriptor on which a helper process reports that the raylet's death has ended this process;
        None: there is no helper process.
        """
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
        self._witness = None if errors is None else self._start_witness(Path(raylet_socket), errors)

    def check(self) -> None:
        """Raise BackendGone if a daemon has died. This takes one system call, and never waits for another thread."""
        if self._ends.any:
            self.stopped()

    def stopped(self) -> str | None:
        """Return a description of a daemon that is stopped (SIGSTOP), or None if no daemon is.

        Raises BackendGone if a daemon has died.
        """
        for name, pid in self._pids.items():
            state = _state(pid)
            if state in "ZX":
                raise _died(name, pid)
            if state in "Tt":
                return f"its {name} (process {pid}), which is stopped,"
        return None

    def close(self) -> None:
        """End the helper process, before Ray ends in an orderly way."""
        helper, self._witness = self._witness, None
        if helper is not None:
            assert helper.stdin is not None, "the helper was started with a pipe"
            with contextlib.suppress(OSError, ValueError):
                helper.stdin.write(b"orderly\n")
                helper.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                helper.wait(_FAREWELL_SECONDS)

    def _start_witness(self, raylet_socket: Path, errors: int) -> subprocess.Popen[bytes] | None:
        """Start the helper process. Returns None if that fails, because a launch can do without this process."""
        logs = raylet_socket.parent.parent / "logs"
        pid = self._pids.get("raylet")
        if pid is None:
            return None
        with contextlib.suppress(OSError):
            helper = children.start(
                [sys.executable, "-I", "-S", witness.__file__],
                children.HELPER,
                children.environment(children.HELPER, os.environ),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd="/",
            )
            assert helper.stdin is not None, "the helper was started with a pipe"
            helper.stdin.write(json.dumps([str(logs), os.getpid(), f"error: {_died('raylet', pid)}"]).encode() + b"\n")
            helper.stdin.flush()
            return helper
        return None


def _died(name: str, pid: int) -> BackendGone:
    return BackendGone(
        f"Ray is gone: its {name} (process {pid}) has died",
        todo="check whether memory ran out or the process was killed, then launch again: published results are kept",
    )


class _PollFd(ctypes.Structure):
    """The `pollfd` of the C library."""

    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


class _Ends:
    """Finds out with one system call whether one of several processes has ended.

    The call keeps Python's global interpreter lock. The functions of `select` release the lock, and then often wait for
    a busy thread. During this wait, a process could end unnoticed.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._descriptors: list[int] = []
        self._known = hasattr(os, "pidfd_open")
        for pid in pids if self._known else ():
            try:
                descriptor = os.pidfd_open(pid)
            except OSError:
                # The process has ended already, or the system forbids the call. `check` then looks at each process
                # instead.
                self._known = False
                return
            self._descriptors.append(descriptor)
            weakref.finalize(self, os.close, descriptor)
        # A descriptor becomes readable when its process ends, even before the parent process asks for its exit status.
        self._polled = (_PollFd * len(self._descriptors))(*(_PollFd(one, select.POLLIN) for one in self._descriptors))
        self._poll = ctypes.PyDLL(None).poll

    @property
    def any(self) -> bool:
        """Whether one of the processes has ended; also True if the system cannot tell."""
        return not self._known or self._poll(self._polled, len(self._descriptors), 0) != 0


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
