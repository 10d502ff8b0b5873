"""Real Ray, started and ended by the command itself, and killed in every way: the rows are those of the quiet run."""

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
from pathlib import Path

import pytest

from tests.actors.launch.test_launch import assert_same_rows
from tests.conftest import TINY
from tests.undisturbed.undisturbed import Launched, assert_undisturbed

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex * 2}
STUDY = [sys.executable, "-m", "cli"]
ROOT = Path(__file__).resolve().parents[2]


def start(*words, folder=ROOT, **more) -> subprocess.Popen:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.Popen(
        [*STUDY, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=environment | more,
        start_new_session=True,
    )


def finish(process: subprocess.Popen, seconds: float = 120) -> tuple[int, str]:
    printed, _ = process.communicate(timeout=seconds)
    return process.returncode, printed


def descendants(pid: int) -> set[int]:
    """Process ids below `pid`, from /proc."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found, new = set(), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


def alive(pids: set[int]) -> set[int]:
    """Those of `pids` that still run."""
    running = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state not in "ZX":
            running.add(pid)
    return running


def gone(pids: set[int], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not alive(pids)


def parts(run: Path) -> int:
    return len(list((run / "results").glob("*.parquet")))


def wait_for_parts(run: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 90
    while parts(run) < count and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert parts(run) >= count, process.communicate(timeout=30)[0] if process.poll() is not None else "no rows in time"


def test_two_workers(tiny_run, spec_file, tmp_path):
    staff = "run.actors=2"
    status, printed = finish(start("launch", spec_file(TINY), "--output", tmp_path / "run", "--set", staff))
    assert status == 0, printed
    assert "local Ray" in printed
    assert "2 workers on cpu" in printed
    assert_undisturbed(Launched(status, printed, time.time()), tmp_path / "run")
    assert_same_rows(tmp_path / "run", tiny_run)


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


def test_ctrl_c_leaves_nothing_behind(spec_file, tmp_path):
    process = start("launch", spec_file(TINY), "--output", tmp_path / "run")
    wait_for_parts(tmp_path / "run", 1, process)
    below = descendants(process.pid)
    began = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    status, printed = finish(process)
    assert status == 130, printed
    assert time.monotonic() - began < 10
    assert "Continue with: study launch" in printed
    assert "Traceback" not in printed
    assert gone(below), f"left behind: {alive(below)}"


def test_a_killed_actor_is_replaced(tiny_run, spec_file, tmp_path):
    run = tmp_path / "run"
    process = start("launch", spec_file(TINY), "--output", run)
    wait_for_parts(run, 3, process)
    victims = [pid for pid in descendants(process.pid) if b"ray::Worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert victims
    os.kill(victims[0], signal.SIGKILL)
    status, printed = finish(process)
    assert status == 0, printed
    assert "repaired: actor: worker 0 has died, and another takes its place" in printed
    assert "repaired in this launch: actor 1" in printed
    assert json.loads((run / "status.json").read_text())["repairs"] == {"actor": 1}
    assert_same_rows(run, tiny_run)


@pytest.fixture(scope="module")
def head():
    """A Ray cluster of its own, as `ray start --head` makes it."""
    port, dashboard = (random.Random(os.getpid()).randrange(20000, 30000) + step for step in (0, 1))
    words = ["start", "--head", "--block", f"--port={port}", "--num-cpus=2", f"--dashboard-port={dashboard}"]
    more = ["--disable-usage-stats", "--include-dashboard=true", f"--object-store-memory={2**28}"]
    ray = Path(sys.executable).with_name("ray")
    process = subprocess.Popen(
        [str(ray), *words, *more],
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
            time.sleep(0.5)
        below = descendants(process.pid)
        yield f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}"
    finally:
        below |= descendants(process.pid)
        process.terminate()
        process.wait(timeout=60)
        for pid in alive(below):
            os.kill(pid, signal.SIGKILL)


def test_a_cluster_by_address(tiny_run, spec_file, tmp_path, head):
    address, _ = head
    spec = spec_file(TINY)
    status, printed = finish(start("launch", spec, "--output", tmp_path / "run", RAY_ADDRESS=address, **TOKEN))
    assert status == 0, printed
    assert f"Ray at {address}" in printed
    assert_same_rows(tmp_path / "run", tiny_run)


def test_workers_with_other_code_are_refused(spec_file, tmp_path, head):
    """The cluster runs what is installed, the driver a changed copy from its own folder."""
    address, _ = head
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
    assert f"what the driver runs on {socket.gethostname()}: {copy}" in printed
    assert "Traceback" not in printed
    assert not parts(run)


@pytest.mark.slow
def test_inside_a_submitted_job(tiny_run, spec_file, tmp_path, head):
    """No flag is needed there: the job's own environment says which cluster it is."""
    _, dashboard = head
    spec = spec_file(TINY)
    ray = Path(sys.executable).with_name("ray")
    entry = [*STUDY, "launch", str(spec), "--output", str(tmp_path / "run")]
    deadline = time.monotonic() + 60
    while True:
        submitted = subprocess.run(
            [str(ray), "job", "submit", "--address", dashboard, "--", *entry],
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


def test_no_cluster_there(spec_file, tmp_path):
    process = start("launch", spec_file(TINY), "--output", tmp_path / "run", "--address", "127.0.0.1:9")
    status, printed = finish(process)
    assert status == 2, printed
    assert "error: there is no Ray cluster at 127.0.0.1:9" in printed
    assert "Traceback" not in printed
