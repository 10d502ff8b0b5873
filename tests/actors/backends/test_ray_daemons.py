"""Whose raylet it is, and whether it runs: of a real process behind a real Unix socket."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from actors.backends.interface import BackendGone
from actors.backends.ray_daemons import CHECK_SECONDS, Daemons

LISTENING = """
import socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
print("listens", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def listening():
    """A process that listens at the path of a socket, and the path; it is ended with the block."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        path = str(Path(short) / "raylet")
        process = subprocess.Popen(
            [sys.executable, "-c", LISTENING, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout.readline() == "listens\n"
            yield process, path
        finally:
            process.kill()
            process.communicate()


def test_the_process_behind_a_socket():
    with listening() as (process, path):
        daemons = Daemons(path)
        assert daemons.owner == pwd.getpwuid(os.getuid()).pw_name
        assert daemons.stopped() is None
        daemons.check()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        assert daemons.stopped() == f"its raylet (process {process.pid}), which is stopped,"
        daemons.check()
        process.send_signal(signal.SIGCONT)
        os.waitid(os.P_PID, process.pid, os.WCONTINUED | os.WNOWAIT)
        assert daemons.stopped() is None
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        time.sleep(2 * CHECK_SECONDS)
        for _ in range(2):
            with pytest.raises(BackendGone, match=f"its raylet .process {process.pid}. has died") as caught:
                daemons.stopped()
            assert caught.value.status == 1
            with pytest.raises(BackendGone, match="has died"):
                daemons.check()
            process.communicate()


def test_where_the_system_has_no_descriptors_of_processes(monkeypatch):
    """Each process is looked at instead."""
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    with listening() as (process, path):
        daemons = Daemons(path)
        daemons.check()
        process.kill()
        process.communicate()
        time.sleep(2 * CHECK_SECONDS)
        with pytest.raises(BackendGone, match="has died"):
            daemons.check()


def test_nothing_behind_a_socket(tmp_path):
    daemons = Daemons(str(tmp_path / "none"))
    assert daemons.owner is None
    assert daemons.stopped() is None
