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
import os, signal, sys
from actors.backends.interface import BackendGone
from actors.backends.ray_daemons import Daemons
daemons = Daemons(sys.argv[1], 2)
match sys.argv[2]:
    case "killed":
        pass
    case "raylet":
        os.kill(int(sys.argv[3]), signal.SIGKILL)
        while not daemons._ends.any:
            pass
    case "reported":
        os.kill(int(sys.argv[3]), signal.SIGKILL)
        while True:
            try:
                daemons.check()
            except BackendGone as error:
                print("the driver:", error, file=sys.stderr, flush=True)
                break
    case "closed":
        daemons.close()
        os.kill(int(sys.argv[3]), signal.SIGKILL)
os._exit(1)
"""


@pytest.mark.parametrize("how", ["killed", "raylet", "reported", "closed"])
def test_a_death_that_ends_the_driver_is_reported_once(how):
    """As Ray ends it: at once, with nothing printed. The helper process ends too, as its pipe does."""
    with listening() as (process, path):
        words = [sys.executable, "-c", ENDING, path, how, str(process.pid)]
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)
    what = f"Ray is gone: its raylet (process {process.pid}) has died"
    printed = {"raylet": f"error: {what}", "reported": f"the driver: {what}"}.get(how, "")
    assert done.stderr.startswith(printed)
    assert done.stderr.count("Ray is gone") == bool(printed)
    assert done.stderr.count("launch again: published results are kept") == bool(printed)
    assert done.returncode == 1


def test_nothing_behind_a_socket(tmp_path):
    daemons = Daemons(str(tmp_path / "none"))
    assert daemons.owner is None
    assert daemons.stopped() is None
