"""Real Ray, started and ended by the command itself or joined by address: the rows are those of one process."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from actors.backends.ray_backend import RayBackend
from study.errors import StudyError
from tests.actors.launch.test_launch import assert_same_rows
from tests.conftest import FEWER, TINY, run_here
from tests.processes import ROOT, STUDY, alive, child, descendants, finish, gone, parts, start, wait_for_parts

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex * 2}
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
LONG = """
study: long
images: {sample: foolbox, size: 48, keep: all, count: 20}
models:
  c: {network: "timm:test_resnet", weights: "random:2", size: 48}
attacks: {mi: {steps: STEPS, step_size: 1}}
experiments: {x: {attacks: [mi], sources: each}}
numerics: {batch: 2, threads: 1}
run: {shard: 1, actors: ACTORS, flush_seconds: 0, call_seconds: 60}
"""
"""Units that take long enough to be disturbed."""


def long_spec(folder: Path, steps: int = 500, actors: int = 1) -> Path:
    path = folder / "spec.yaml"
    path.write_text(LONG.replace("STEPS", str(steps)).replace("ACTORS", str(actors)))
    return path


def assert_error(run: Path, printed: str, error: str) -> None:
    """On the terminal, in the log and in the status."""
    assert f"error: {error}" in printed
    assert "Traceback" not in printed
    assert error in (run / "study.log").read_text()
    status = json.loads((run / "status.json").read_text())
    assert (status["ended"], status["status"]) == (True, 1)
    assert error in status["error"]


def assert_died(run: Path, printed: str, error: str) -> None:
    """On the terminal, once. If Ray has ended the driver during a call, `study status` says that the end was sudden."""
    assert printed.count(f"error: {error}") == 1
    if json.loads((run / "status.json").read_text())["ended"]:
        assert_error(run, printed, error)
        return
    assert "Traceback" not in printed
    status, shown = finish(start("status", run))
    assert status == 0
    assert "ended unexpectedly after" in shown


def assert_stopped(run: Path, printed: str, path: Path, status: int) -> None:
    assert f"stopped; finished work is kept. Continue with: study launch {path} --output {run}" in printed
    assert "Traceback" not in printed
    written = json.loads((run / "status.json").read_text())
    assert (written["ended"], written["status"]) == (True, status)


def test_one_study_through_every_disturbance(tmp_path):
    """A killed actor, Ctrl-C, a killed raylet and a signal while Ray starts: no process is left, and the rows are those
    of a run in this process."""
    run, path = tmp_path / "run", long_spec(tmp_path, 40, actors=2)
    words = ("launch", path, "--output", run)

    process = start(*words)
    wait_for_parts(run, 1, process)
    os.kill(child(process, "ray::Worker"), signal.SIGKILL)
    deadline = time.monotonic() + 60
    while "takes its place" not in (run / "study.log").read_text() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    below, began = descendants(process.pid), time.monotonic()
    process.send_signal(signal.SIGINT)
    status, printed = finish(process)
    assert status == 130, printed
    assert time.monotonic() - began < 30
    assert "2 workers on cpu" in printed
    assert "repaired: actor: worker" in printed
    assert json.loads((run / "status.json").read_text())["repairs"] == {"actor": 1}
    assert_stopped(run, printed, path, 130)
    assert gone(below), f"left behind: {alive(below)}"

    one = (*words, "--set", "run.actors=1")
    process = start(*one)
    wait_for_parts(run, parts(run) + 1, process)
    below, raylet = descendants(process.pid), child(process, "raylet")
    os.kill(raylet, signal.SIGKILL)
    status, printed = finish(process)
    assert status == 1, printed
    assert_died(run, printed, f"Ray is gone: its raylet (process {raylet}) has died")
    assert gone(below), f"left behind: {alive(below)}"
    kept = parts(run)

    process = start(*one)
    child(process, "gcs_server")
    below, began = descendants(process.pid), time.monotonic()
    process.send_signal(signal.SIGTERM)
    status, printed = finish(process)
    assert status == 143, printed
    assert time.monotonic() - began < 30
    assert_stopped(run, printed, path, 143)
    assert gone(below), f"left behind: {alive(below)}"
    assert parts(run) == kept

    # The rest in this process: tests/undisturbed has Ray come to its end.
    for folder in (run, tmp_path / "here"):
        status, printed = run_here(path, folder)
        assert status == 0, printed
    assert_same_rows(run, tmp_path / "here")


@pytest.mark.slow  # the short chaos kills actors and a driver in every run of the suite
@pytest.mark.parametrize("kills", [2, 8])
def test_killed_at_random_moments(tiny_run, spec_file, tmp_path, kills):
    """SIGKILL of the driver: nothing is lost, doubled or different, and no process is left behind."""
    run, spec, moments = tmp_path / "run", spec_file(TINY), random.Random(2017)
    killed = 0
    for attempt in range(kills):
        process = start("launch", spec, "--output", run)
        if attempt:
            wait_for_parts(run, parts(run) + 1, process)
            time.sleep(moments.uniform(0, 0.25))
        else:
            time.sleep(moments.uniform(2, 8))
        below = descendants(process.pid)
        killed += process.poll() is None
        process.kill()
        process.communicate()
        assert gone(below), f"left behind: {alive(below)}"
    assert killed == kills
    status, printed = finish(start("launch", spec, "--output", run))
    assert status == 0, printed
    assert_same_rows(run, tiny_run)


@contextmanager
def cluster(*, dashboard: bool) -> Iterator[tuple[str, str]]:
    """A Ray cluster of its own, as `ray start --head` makes it: its address, and that of its dashboard."""
    port, other = (random.Random(os.getpid() + dashboard).randrange(20000, 30000) + step for step in (0, 1))
    words = ["start", "--head", "--block", f"--port={port}", "--num-cpus=2", f"--dashboard-port={other}"]
    more = ["--disable-usage-stats", f"--include-dashboard={str(dashboard).lower()}", f"--object-store-memory={2**28}"]
    process = subprocess.Popen(
        [*RAY, *words, *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | TOKEN,
    )
    below = set()
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        below = descendants(process.pid)
        yield f"127.0.0.1:{port}", f"http://127.0.0.1:{other}"
    finally:
        below |= descendants(process.pid)
        process.terminate()
        process.wait(timeout=60)
        for pid in alive(below):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def address():
    with cluster(dashboard=False) as (found, _):
        yield found


def test_a_cluster_by_address(finished, spec_file, tmp_path, address):
    spec = spec_file(FEWER)
    status, printed = finish(start("launch", spec, "--output", tmp_path / "run", RAY_ADDRESS=address, **TOKEN))
    assert status == 0, printed
    assert f"Ray at {address}" in printed
    assert_same_rows(tmp_path / "run", finished(FEWER))


def test_workers_with_other_code_are_refused(spec_file, tmp_path, address):
    """The cluster runs what is installed, the driver a changed copy from its own folder."""
    copy, run = tmp_path / "copy", tmp_path / "run"
    for package in ("study", "actors"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "cli.py", copy)
    with (copy / "study" / "attacks" / "step.py").open("a") as changed:
        changed.write("# Changed.\n")
    words = ("launch", spec_file(TINY), "--output", run, "--address", address)
    status, printed = finish(start(*words, folder=copy, **TOKEN))
    assert status == 2, printed
    assert f"a worker on {socket.gethostname()} runs other code than the driver: {ROOT}" in printed
    assert f"the driver's code on {socket.gethostname()}: {copy}" in printed
    assert "Traceback" not in printed
    assert not parts(run)


@pytest.mark.slow
def test_inside_a_submitted_job(tiny_run, spec_file, tmp_path):
    """No flag is needed there: the job's own environment says which cluster it is."""
    with cluster(dashboard=True) as (_, dashboard):
        spec = spec_file(TINY)
        entry = [*STUDY, "launch", str(spec), "--output", str(tmp_path / "run")]
        deadline = time.monotonic() + 60
        while True:
            submitted = subprocess.run(
                [*RAY, "job", "submit", "--address", dashboard, "--", *entry],
                capture_output=True,
                text=True,
                cwd=ROOT,
                env=os.environ | TOKEN,
                check=False,
            )
            if submitted.returncode == 0 or time.monotonic() > deadline:
                break
            time.sleep(3)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert "Ray at " in submitted.stdout
    assert_same_rows(tmp_path / "run", tiny_run)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:9", "there is no Ray cluster at 127.0.0.1:9"),
        ("nonsense", "'nonsense' is not the address of a Ray cluster"),
        ("ray://127.0.0.1:9", "'ray://127.0.0.1:9' is not the address of a Ray cluster"),
    ],
)
def test_no_cluster_there(address, said):
    with pytest.raises(StudyError, match=said) as caught:
        RayBackend(address)
    assert caught.value.accepted == "host:port of a cluster's head, auto, or local"
