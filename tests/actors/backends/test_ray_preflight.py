"""A machine on which no local Ray can start gets an error before Ray starts."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from actors.backends import ray_preflight
from study.errors import StudyError


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.delenv("TMPDIR", raising=False)


def test_a_usual_machine_is_ready():
    ray_preflight.check_machine()


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_name_too_long_for_sockets(tmp_path, monkeypatch, name):
    """To the byte: the longest that is accepted is one in which the socket can be made."""
    longest = 107 - len(f"/ray/session_2000-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store")
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        fits = Path(short) / ("x" * (longest - len(short) - 1))
        monkeypatch.setenv(name, str(fits))
        ray_preflight.check_machine()
        monkeypatch.setenv(name, f"{fits}x")
        with pytest.raises(StudyError, match="1 byte too long for the sockets in it") as caught:
            ray_preflight.check_machine()
    assert caught.value.accepted == f"{longest} bytes at most"
    assert name in caught.value.what
    assert "RAY_TMPDIR" in caught.value.todo


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with tempfile.NamedTemporaryFile(dir="/tmp") as file:
        monkeypatch.setenv("RAY_TMPDIR", f"{file.name}/x")
        with pytest.raises(StudyError, match=f"cannot be written: {file.name}/x, which RAY_TMPDIR names: Not a dir"):
            ray_preflight.check_machine()


def test_a_full_disk(monkeypatch):
    monkeypatch.setattr(ray_preflight.os, "statvfs", lambda path: SimpleNamespace(f_bavail=5, f_frsize=2**20))
    with pytest.raises(StudyError, match="is full: 5 MiB are free in /tmp"):
        ray_preflight.check_machine()


def test_no_ports(monkeypatch):
    def none_left(*_: object):
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(socket, "create_server", none_left)
    with pytest.raises(StudyError, match="cannot connect to itself") as caught:
        ray_preflight.check_machine()
    assert "free ports" in caught.value.todo
