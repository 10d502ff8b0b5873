"""What a local Ray needs of its machine, looked at before it starts: Ray itself would say nothing for minutes."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

from study.errors import StudyError

_LOOPBACK = "127.0.0.1"
_SECONDS = 5.0
_SOCKET = "ray/session_2000-01-01_00-00-00_000000_{process}/sockets/plasma_store"
_MOST_BYTES = 107
"""Of the path of a Unix socket, its end not counted."""
_LEAST_FREE = 64 * 2**20
"""Logs and sockets of one session, and what it spills first."""


def must_be_ready() -> None:
    """Raises StudyError, with the way out, where no Ray could start here."""
    _temporary(Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"))
    _loopback()


def _temporary(folder: Path) -> None:
    name = next((one for one in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(one)), None)
    where = f"{folder}, which {name} names" if name else str(folder)
    todo = (
        "set RAY_TMPDIR to a folder on a local disk that this user may write, with a short name, such as /var/tmp/ray"
    )
    path = str(folder / _SOCKET.format(process=os.getpid()))
    if (long := len(os.fsencode(path)) - _MOST_BYTES) > 0:
        most = len(os.fsencode(str(folder))) - long
        raise StudyError(
            f"the name of Ray's temporary folder is {long} bytes too long for the sockets in it: {where}",
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
            todo="make room there, or set RAY_TMPDIR to a folder on another disk",
        )


def _loopback() -> None:
    """A connection from this machine to itself, as Ray's processes make them."""
    try:
        with socket.create_server((_LOOPBACK, 0)) as server:
            socket.create_connection(server.getsockname(), timeout=_SECONDS).close()
    except OSError as error:
        raise StudyError(
            f"this machine cannot connect to itself, which a local Ray needs: {_LOOPBACK}: {error}",
            todo="bring the loopback interface up (`ip link set lo up`), let a firewall pass it, and free ports if "
            "there are none; or join a cluster with --address",
        ) from None
