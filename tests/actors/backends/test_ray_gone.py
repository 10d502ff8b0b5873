"""A launch whose Ray is stopped or killed under it, and signals before it has begun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.actors.backends.test_ray_backend import assert_died, assert_error, assert_stopped, long_spec
from tests.processes import ROOT, alive, child, descendants, finish, gone, start, wait_for_parts


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_stopped_process_of_ray(tmp_path, name):
    """It is named once it has been silent for long enough; a signal before that is answered."""
    run, path = tmp_path / "run", long_spec(tmp_path)
    for number in (signal.SIGTERM, None):
        process = start("launch", path, "--output", run, "--set", "run.call_seconds=30")
        wait_for_parts(run, 1, process)
        below = descendants(process.pid)
        stopped = child(process, name)
        os.kill(stopped, signal.SIGSTOP)
        began = time.monotonic()
        if number is not None:
            time.sleep(3)
            process.send_signal(number)
        status, printed = finish(process)
        assert time.monotonic() - began < (20 if number else 75)
        if number is not None:
            assert status == 143, printed
            assert_stopped(run, printed, Path(f"{path}"), 143)
        else:
            assert status == 1, printed
            called = {"raylet": "raylet", "gcs_server": "GCS"}[name]
            assert_error(
                run, printed, f"Ray hangs: its {called} (process {stopped}), which is stopped, has not answered"
            )
        assert gone(below), f"left behind: {alive(below)}"


@pytest.mark.slow
def test_a_killed_gcs(tmp_path):
    run, path = tmp_path / "run", long_spec(tmp_path)
    process = start("launch", path, "--output", run)
    wait_for_parts(run, 1, process)
    gcs = child(process, "gcs_server")
    os.kill(gcs, signal.SIGKILL)
    status, printed = finish(process)
    assert status == 1, printed
    assert_died(run, printed, f"Ray is gone: its GCS (process {gcs}) has died")


DYING = """
import os, signal, sys, time
import numpy as np
from actors.backends.ray_backend import RayBackend
if __name__ == "__main__":
    backend = RayBackend("local", errors=2, store=lambda gpus: 100 * 2**20)
    held = backend.put(np.zeros(2**22, np.uint8))
    print("up", *[pid for name, pid in backend._daemons._pids.items() if name == "raylet"], flush=True)
    time.sleep(600 if sys.argv[1] == "killed" else 0)
    os.kill(backend._daemons._pids["raylet"], signal.SIGKILL)
    while True:
        backend.pixels(backend.put(np.zeros(2**22, np.uint8)))
"""
"""A driver whose raylet dies in the middle of a call, or that is killed itself."""


@pytest.mark.parametrize("how", ["its raylet", "killed"])
def test_a_death_during_a_call_is_reported_once(how):
    """Ray ends the driver without a message: a helper process prints it. A driver that another kills needs none."""
    words = [sys.executable, "-c", DYING, how]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        up, raylet = process.stdout.readline().split()
        assert up == "up"
        below = descendants(process.pid)
        if how == "killed":
            process.kill()
        _, printed = process.communicate(timeout=100)
    what = f"error: Ray is gone: its raylet (process {raylet}) has died"
    assert printed.count("Ray is gone") == printed.count(what) == (how != "killed"), printed
    assert gone(below), f"left behind: {alive(below)}"


IMPORTING = """
import os, signal, sys, threading
class Sends:
    def find_spec(self, name, *rest):
        if name == "actors.launch.launch":
            os.kill(os.getpid(), NUMBER)
sys.meta_path.insert(0, Sends())
import cli
cli.main()
"""


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGHUP, 129),
        # What one signal does here, every signal does: `test_bounded_calls` has the three of them.
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_signal_before_the_study_has_begun(tmp_path, number, status):
    """While Python still imports: the usual last line, and nothing written."""
    code, path = IMPORTING.replace("NUMBER", str(int(number))), long_spec(tmp_path)
    words = [sys.executable, "-c", code, "launch", str(path), "--output", str(tmp_path / "run")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False, timeout=100)
    assert done.returncode == status, done.stderr
    again = f"study launch {path} --output {tmp_path / 'run'}"
    assert done.stderr == f"stopped; finished work is kept. Continue with: {again}\n"
    assert not (tmp_path / "run").exists()


NO_LOOPBACK = """
from actors.backends.ray_preflight import check_machine
from study.errors import StudyError
try:
    check_machine()
except StudyError as error:
    print(error)
"""


@pytest.mark.skipif(subprocess.run(["unshare", "-n", "true"], check=False).returncode != 0, reason="needs a namespace")
def test_no_loopback():
    """In a network namespace of its own, whose loopback interface is down."""
    words = ["unshare", "-n", sys.executable, "-c", NO_LOOPBACK]
    printed = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=True, timeout=100).stdout
    assert "this machine cannot connect to itself, which a local Ray needs: 127.0.0.1" in printed
    assert "ip link set lo up" in printed
