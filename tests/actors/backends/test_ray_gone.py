"""Real Ray whose processes are killed or stopped under a launch, and signals: a word, a status, the rows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.actors.backends.test_ray_backend import ROOT, alive, descendants, finish, gone, start, wait_for_parts
from tests.conftest import rows

ENDLESS = """
study: endless
images: {sample: foolbox, size: 48, keep: all, count: 20}
models:
  c: {network: "timm:test_resnet", weights: "random:2", size: 48}
attacks: {mi: {steps: STEPS, step_size: 1}}
experiments: {x: {attacks: [mi], sources: each}}
numerics: {batch: 2, threads: 1}
run: {shard: 1, actors: 1, flush_seconds: 0, call_seconds: 60}
"""


def spec(folder: Path, steps: int = 500) -> Path:
    path = folder / "spec.yaml"
    path.write_text(ENDLESS.replace("STEPS", str(steps)))
    return path


def child(process: subprocess.Popen, name: str, seconds: float = 60) -> int:
    """The process id of a process below the launch, by the name of its program, once it is there."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for pid in descendants(process.pid):
            try:
                if f"({name})" in Path(f"/proc/{pid}/stat").read_text():
                    return pid
            except OSError:
                continue
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    raise AssertionError(f"no {name} below the launch")


def assert_said(run: Path, printed: str, said: str) -> None:
    """On the terminal, in the log and in the status."""
    assert f"error: {said}" in printed
    assert "Traceback" not in printed
    assert said in (run / "study.log").read_text()
    status = json.loads((run / "status.json").read_text())
    assert (status["ended"], status["status"]) == (True, 1)
    assert said in status["error"]


def assert_stopped(run: Path, printed: str, path: Path, status: int) -> None:
    assert f"stopped; finished work is kept. Continue with: study launch {path} --output {run}" in printed
    assert "Traceback" not in printed
    written = json.loads((run / "status.json").read_text())
    assert (written["ended"], written["status"]) == (True, status)


def test_a_killed_raylet_and_a_signal_while_ray_starts(tmp_path):
    """What was published is kept, and the next launches go on: one that is stopped as Ray starts, and a whole one."""
    run, path = tmp_path / "run", spec(tmp_path, 40)
    process = start("launch", path, "--output", run)
    wait_for_parts(run, 1, process)
    below = descendants(process.pid)
    raylet = child(process, "raylet")
    os.kill(raylet, signal.SIGKILL)
    status, printed = finish(process)
    assert status == 1, printed
    assert_said(run, printed, f"Ray is gone: its raylet (process {raylet}) has died")
    assert gone(below), f"left behind: {alive(below)}"
    kept = rows(run).height
    assert kept

    process = start("launch", path, "--output", run)
    child(process, "gcs_server")
    below = descendants(process.pid)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    status, printed = finish(process)
    assert status == 143, printed
    assert time.monotonic() - began < 10
    assert_stopped(run, printed, path, 143)
    assert gone(below), f"left behind: {alive(below)}"
    assert rows(run).height == kept

    status, printed = finish(start("launch", path, "--output", run), 240)
    assert status == 0, printed
    assert rows(run).height == 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_stopped_process_of_ray(tmp_path, name):
    """It is named once it has been silent for long enough; a signal before that is answered."""
    run, path = tmp_path / "run", spec(tmp_path)
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
            assert_said(
                run, printed, f"Ray hangs: its {called} (process {stopped}), which is stopped, has not answered"
            )
        assert gone(below), f"left behind: {alive(below)}"


@pytest.mark.slow
def test_a_killed_gcs(tmp_path):
    run, path = tmp_path / "run", spec(tmp_path)
    process = start("launch", path, "--output", run)
    wait_for_parts(run, 1, process)
    gcs = child(process, "gcs_server")
    os.kill(gcs, signal.SIGKILL)
    status, printed = finish(process)
    assert status == 1, printed
    assert_said(run, printed, f"Ray is gone: its GCS (process {gcs}) has died")


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
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str
)
def test_a_signal_before_the_study_has_begun(tmp_path, number, status):
    """While Python still imports: the usual last line, and nothing written."""
    code, path = IMPORTING.replace("NUMBER", str(int(number))), spec(tmp_path)
    words = [sys.executable, "-c", code, "launch", str(path), "--output", str(tmp_path / "run")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False, timeout=100)
    assert done.returncode == status, done.stderr
    again = f"study launch {path} --output {tmp_path / 'run'}"
    assert done.stderr == f"stopped; finished work is kept. Continue with: {again}\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(subprocess.run(["unshare", "-n", "true"], check=False).returncode != 0, reason="needs a namespace")
def test_no_loopback(tmp_path):
    """In a network namespace of its own, whose loopback interface is down."""
    words = ["unshare", "-n", sys.executable, "-m", "cli", "launch", str(spec(tmp_path)), "--output", tmp_path / "run"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False, timeout=200)
    assert done.returncode == 2, done.stderr
    assert "error: this machine cannot connect to itself, which a local Ray needs: 127.0.0.1" in done.stderr
    assert "ip link set lo up" in done.stderr
