"""Two hosts that are namespaces of this machine, one Ray over both: the rows of one process, whatever is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.actors.launch.test_launch import assert_same_rows
from tests.cluster.hosts import BIN, Host, hosts, refused
from tests.conftest import TINY

pytestmark = pytest.mark.slow

STUDY = (BIN / "python", "-m", "cli")
CREW = {"shard": 2, "flush_seconds": 0}
"""As many workers as the cluster has cores for: one on each host."""


@dataclass
class Joined:
    """Two hosts of one core each, with one Ray over both that asks for a token."""

    head: Host
    other: Host
    token: dict[str, str]

    @property
    def address(self) -> str:
        return f"{self.head.address}:6379"

    def launch(self, spec: Path, run: Path, **more: str) -> subprocess.Popen[str]:
        words = ("launch", spec, "--output", run, "--address", self.address)
        return self.head.start(*STUDY, *words, env=self.token | more)


@contextmanager
def joining(home: Path) -> Iterator[Joined]:
    if reason := refused():
        pytest.skip(reason)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.urandom(32).hex(), "HOME": str(home)}
    size = ("--num-cpus=1", f"--object-store-memory={2**27}")
    with hosts(2) as (head, other):
        words = ("start", "--head", "--port=6379", f"--node-ip-address={head.address}", *size)
        head.ray(*words, f"--dashboard-host={head.address}", env=token)
        joined = Joined(head, other, token)
        other.ray("start", f"--address={joined.address}", f"--node-ip-address={other.address}", *size, env=token)
        yield joined


@pytest.fixture(scope="module")
def joined(tmp_path_factory) -> Iterator[Joined]:
    """Hosts for tests that leave them as they are."""
    with joining(tmp_path_factory.mktemp("home")) as made:
        yield made


@pytest.fixture
def doomed(tmp_path) -> Iterator[Joined]:
    """Hosts of which a test may take one away."""
    with joining(tmp_path) as made:
        yield made


def finish(process: subprocess.Popen[str], seconds: float = 300) -> tuple[int, str]:
    try:
        printed, _ = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, printed


def wait_for_parts(run: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 180
    while len(list((run / "results").glob("*.parquet"))) < count and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    assert time.monotonic() < deadline, "no rows in time"


CALLS = """
from ray.util.state import list_nodes, list_tasks
import sys
names = {node.node_id: node.node_ip for node in list_nodes(address=sys.argv[1])}
for task in list_tasks(address=sys.argv[1], detail=True, limit=5000, raise_on_missing_output=False):
    print(names.get(task.node_id), task.name)
"""


def calls(joined: Joined) -> Counter[tuple[str, str]]:
    """How many calls of which method were made on which host, as Ray tells afterwards."""
    url = f"http://{joined.head.address}:8265"
    status, printed = joined.head.run(BIN / "python", "-c", CALLS, url, env=joined.token)
    assert status == 0, printed
    words = [tuple(line.split(maxsplit=1)) for line in printed.splitlines() if " WorkerActor." in line]
    return Counter(words)


def test_both_hosts_work(tiny_run, spec_file, tmp_path, joined):
    status, printed = finish(joined.launch(spec_file({"run": CREW}), tmp_path / "run"))
    assert status == 0, printed
    assert " 2 cores" in printed, printed
    assert " 2 workers" in printed, printed
    assert_same_rows(tmp_path / "run", tiny_run)
    crafted = {host: count for (host, method), count in calls(joined).items() if method == "WorkerActor.craft"}
    assert set(crafted) == {joined.head.address, joined.other.address}


def test_a_submitted_job(tiny_run, spec_file, tmp_path, joined):
    """The code is shipped, the job finds its cluster by itself, and goes on when it is submitted again."""
    run, spec = tmp_path / "run", spec_file({"run": CREW})
    url = f"--address=http://{joined.head.address}:8265"
    submit = ("job", "submit", url, "--working-dir=.")
    entry = ("--", "python", "-m", "cli", "launch", spec, "--output", run)
    joined.head.ray(*submit, "--submission-id=first", "--no-wait", *entry, env=joined.token)
    deadline = time.monotonic() + 180
    while not list((run / "results").glob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    stopped = joined.head.ray("job", "stop", url, "first", env=joined.token)
    assert "stopped" in stopped, stopped
    logs = joined.head.ray("job", "logs", url, "first", env=joined.token)
    assert f"Ray at {joined.address}" in logs
    assert "stopped; what is finished is kept" in logs
    printed = joined.head.ray(*submit, *entry, env=joined.token)
    assert "succeeded" in printed, printed
    assert_same_rows(run, tiny_run)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "RAY_AUTH_MODE=token is not set here"),
        ({"RAY_AUTH_TOKEN": ""}, "there is none here"),
        ({"RAY_AUTH_TOKEN": "0" * 64}, "the token here is a different one"),
    ],
    ids=["not asked for", "none", "wrong"],
)
def test_the_token_is_wrong(spec_file, tmp_path, joined, changed, words):
    status, printed = finish(joined.launch(spec_file(TINY), tmp_path / "run", **changed))
    assert status == 2, printed
    assert f"error: the cluster at {joined.address} requires a token, and {words}" in printed, printed


OTHER_RAY = "import ray; ray.__version__ = '2.50.0'; import cli; cli.main()"


def test_another_ray(spec_file, tmp_path, joined):
    words = ("launch", spec_file(TINY), "--output", tmp_path / "run", "--address", joined.address)
    status, printed = finish(joined.head.start(BIN / "python", "-c", OTHER_RAY, *words, env=joined.token))
    assert status == 2, printed
    assert "but this process runs Ray 2.50.0 and Python" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("how", ["killed", "unplugged"])
def test_a_host_is_lost(tiny_run, spec_file, tmp_path, doomed, how):
    """Killed: its connections are closed, and Ray knows at once. Unplugged: it only falls silent."""
    run = tmp_path / "run"
    process = doomed.launch(spec_file({"run": CREW}), run)
    wait_for_parts(run, 3, process)
    if how == "killed":
        os.kill(doomed.other.init, signal.SIGKILL)
    else:
        doomed.other.link("down")
    status, printed = finish(process)
    assert status == 0, printed
    assert_same_rows(run, tiny_run)
