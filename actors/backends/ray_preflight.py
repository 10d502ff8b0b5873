"""Checks the machine before a local Ray starts. Without these checks, Ray would hang for minutes without a message."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

from study.errors import StudyError

_LOOPBACK = "127.0.0.1"
_CONNECT_SECONDS = 5.0
_SOCKET = "ray/session_2000-01-01_00-00-00_000000_{process}/sockets/plasma_store"
_LONGEST_SOCKET_PATH = 107
"""Largest number of bytes in the path of a Unix socket, without the final zero byte."""
_LEAST_FREE = 64 * 2**20
"""Bytes that one session of Ray needs on disk, for its logs, its sockets, and the first objects that it writes to
disk."""


def check_machine() -> None:
    """Raise StudyError if a local Ray cannot start on this machine."""
    _check_temporary_folder(Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"))
    _check_loopback()


def _check_temporary_folder(folder: Path) -> None:
    name = next((one for one in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(one)), None)
    where = f"{folder}, which {name} names" if name else str(folder)
    todo = "set RAY_TMPDIR to a writable folder on a local disk, with a short name, such as /var/tmp/ray"
    path = str(folder / _SOCKET.format(process=os.getpid()))
    if (excess := len(os.fsencode(path)) - _LONGEST_SOCKET_PATH) > 0:
        most = len(os.fsencode(str(folder))) - excess
        raise StudyError(
            f"the name of Ray's temporary folder is {excess} byte{'s' * (excess > 1)} too long for the sockets in it: "
            f"{where}",
            accepted=f"{most} bytes at most" if most > 0 else None,
            todo=todo,
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    except OSError as error:
        raise StudyError(
            f"Ray's temporary folder cannot be written: {where}: {error.strerror}", accepted=None, todo=todo
        ) from None
    if free < _LEAST_FREE:
        raise StudyError(
            f"the disk of Ray's temporary folder is full: {free / 2**20:.0f} MiB are free in {where}",
            accepted=f"{_LEAST_FREE / 2**20:.0f} MiB at least",
            todo="free space there, or set RAY_TMPDIR to a folder on another disk",
        )


def _check_loopback() -> None:
    try:
        with socket.create_server((_LOOPBACK, 0)) as server:
            socket.create_connection(server.getsockname(), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise StudyError(
            f"this machine cannot connect to itself, which a local Ray needs: {_LOOPBACK}: {error}",
            todo="bring the loopback interface up (`ip link set lo up`), allow it in the firewall, and free "
            "ports if none are left; or join a cluster with --address",
        ) from None
