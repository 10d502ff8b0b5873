"""Whose raylet it is, and whether it runs: of a real process behind a real Unix socket."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from actors.backends.interface import BackendGone
from actors.backends.ray_daemons import Daemons
from tests.processes import ROOT

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
        path = str(Path(short) / "sockets" / "raylet")
        Path(path).parent.mkdir()
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
        with pytest.raises(BackendGone, match="has died"):
            daemons.check()


ENDING = """
import os, sys
from pathlib import Path
from actors.backends.ray_daemons import Daemons
socket, how, line = sys.argv[1:]
daemons = Daemons(socket, 2)
if how == "orderly":
    daemons.close()
log = Path(socket).parent.parent / "logs" / f"python-core-driver-01_{os.getpid()}.log"
log.parent.mkdir()
log.write_text("I core_worker.cc: started\\n" * 1000 + line)
os._exit(1)
"""
PLASMA = "W connection.cc:216: The connection to the plasma store is failed. Terminate the process. Status: IOError\n"
IPC = "W raylet_ipc_client.cc:60: Exiting because the Raylet IPC connection failed and the local Raylet is dead.\n"


@pytest.mark.parametrize(
    ("how", "line", "reported"),
    [
        ("at once", PLASMA, True),
        ("at once", IPC, True),
        ("at once", "I core_worker.cc: a task has ended\n", False),
        ("orderly", PLASMA, False),
    ],
    ids=["plasma", "raylet", "killed by another", "orderly"],
)
def test_what_ray_ends_without_a_message_is_reported(how, line, reported):
    """Ray's own log says whether Ray has ended the process. The output ends with the helper process."""
    with listening() as (process, path):
        words = [sys.executable, "-c", ENDING, path, how, line]
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)
    assert done.returncode == 1
    if not reported:
        assert done.stderr == ""
        return
    assert done.stderr.startswith(f"error: Ray is gone: its raylet (process {process.pid}) has died\n")
    assert done.stderr.count("launch again: published results are kept") == 1


def test_a_launch_can_do_without_the_helper_process(monkeypatch):
    with listening() as (_, path):
        monkeypatch.setattr(sys, "executable", "/nonexistent/python")
        daemons = Daemons(path, 2)
        daemons.check()
        daemons.close()


def test_nothing_behind_a_socket(tmp_path):
    daemons = Daemons(str(tmp_path / "none"))
    assert daemons.owner is None
    assert daemons.stopped() is None
