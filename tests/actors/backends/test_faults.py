"""Errors in actors on real Ray: the message names the cause in one line, and the guilty device is set aside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from actors.backends.interface import ActorLost, CallFailed, CallRequest
from actors.backends.ray_backend import RayBackend
from actors.resources.placement import WORKER, ResourceRequest
from actors.scheduling.messages import PredictJob
from actors.workers.model_cache import ModelRequest
from actors.workers.worker_config import WorkerConfig
from study.images.labels import label_set
from study.reproducibility.numerics import Numerics
from tests.chaos.machines import Machines
from tests.chaos.processes import until, workers_below
from tests.processes import finish, start, wait_for_parts

PLAIN = re.compile(r"ray::|pid=|\x1b\[|\n")
"""Forbidden in a cause: Ray's names, process ids, colours, a second line."""


STORE = 300 * 2**20


class Unreadable:
    """Survives pickling, and cannot be read back."""

    def __reduce__(self):
        return eval, ("1/0",)


class Leaves:
    """A job that ends the process that reads it."""

    def __reduce__(self):
        return os._exit, (7,)


@pytest.fixture(scope="module")
def cluster():
    found = RayBackend("local", store=lambda gpus: STORE)
    yield found
    found.close()


def config(**changes):
    return WorkerConfig(
        **{"models": {}, "labels": label_set("imagenet"), "channels": 3, "seed": 0, "numerics": Numerics()} | changes
    )


def raised(cluster, ref) -> Exception:
    deadline = time.monotonic() + 60
    while not (ready := cluster.wait([ref], 1.0)):
        assert time.monotonic() < deadline, "no answer"
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the caller checks its type
        cluster.value(ready[0])
    return caught.value


def test_the_object_store_is_as_large_as_was_asked(cluster):
    (machine,) = cluster.machines()
    assert machine.store == STORE


def test_what_is_raised_in_an_actor_arrives_as_its_cause(cluster):
    share = ResourceRequest(0, 0)
    broken = {
        "numerics": cluster.start(WORKER, share, config(numerics=None)),
        "unread": cluster.start(WORKER, share, config(models=Unreadable())),
    }
    fine = cluster.start(WORKER, share, config())
    pixels = cluster.put(np.zeros((1, 3, 4, 4), np.uint8))
    whole = {
        "AttributeError: 'NoneType' object has no attribute 'threads'": broken["numerics"].hello.remote(),
        "ZeroDivisionError: division by zero": broken["unread"].hello.remote(),
        "KeyError: 'nothing'": cluster.call(fine, "predict", (ModelRequest({"nothing": None}), None), pixels).value,
        "AttributeError: 'NoneType' object has no attribute 'images'": cluster.call(
            fine, "craft", (ModelRequest({}), None), pixels
        ).value,
    }
    for said, ref in whole.items():
        error = raised(cluster, ref)
        assert isinstance(error, CallFailed), said
        assert str(error) == said
        assert not PLAIN.search(str(error))
        assert error.traceback.startswith("Traceback (most recent call last)")
        assert "\x1b" not in error.traceback
        assert error.device.name == "the processor"
    (machine,) = {node["NodeID"] for node in cluster._ray.nodes()}
    assert error.device.node == machine
    several = cluster.bundle(
        fine,
        [
            CallRequest("predict", (ModelRequest({}), PredictJob((), 1, ())), pixels),
            CallRequest("craft", (ModelRequest({}), None), pixels),
            CallRequest("predict", (ModelRequest({"nothing": None}), None), pixels),
        ],
    )
    assert [call.pixels is None for call in several] == [True, False, True]
    ready = []
    while not ready:
        ready = cluster.wait([call.value for call in several], 60.0)
    assert ready == [call.value for call in several], "their answers come together"
    assert cluster.value(ready[0]).targets == ()
    for ref, said in zip(ready[1:], ("'NoneType' object has no attribute 'images'", "'nothing'"), strict=True):
        assert str(raised(cluster, ref)).endswith(said)
    assert cluster._bundles == {}
    fatal = [CallRequest("predict", (ModelRequest({}), job), pixels) for job in (PredictJob((), 1, ()), Leaves())]
    for call in cluster.bundle(cluster.start(WORKER, share, config()), fatal):
        assert isinstance(raised(cluster, call.value), ActorLost)
    lost = raised(cluster, cluster.call(fine, "predict", (ModelRequest({}), Leaves()), pixels).value)
    assert isinstance(lost, ActorLost)
    assert not PLAIN.search(str(lost))
    assert re.fullmatch(r"an actor died on [\d.]+: The process ended without a message: .*", str(lost))
    # What is raised outside of our code, and what Ray makes of an argument that it cannot read.
    assert str(raised(cluster, fine.hello.remote())) == str(lost)
    other = cluster._ray.remote(type("Other", (), {"call": lambda self, given: 1 / given}))
    made = other.remote()
    assert str(raised(cluster, made.call.remote(0))) == "ZeroDivisionError: division by zero"
    assert str(raised(cluster, made.call.remote(Unreadable()))) == "ZeroDivisionError: division by zero"


CODE = '''
"""A network that fails its gradients, in a way that cannot be pickled, in the processes of one machine."""

import os
import threading
import traceback
from pathlib import Path

from torch import nn

BAD = Path(__file__).with_name("bad")


class AcceleratorError(Exception):
    def __init__(self, text, code):
        super().__init__(text)
        self.lock = threading.Lock()


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.SiLU(), nn.Flatten(), nn.Linear(4 * 7 * 7, 1000))

    def forward(self, x):
        bad = BAD.read_text() if BAD.exists() else ""
        if any(frame.filename.endswith("zoo.py") for frame in traceback.extract_stack()):
            # What is tried while it is loaded is tried on a processor, and works.
            return self.body(x)
        if bad in (str(os.getppid()), "all") or (bad == "gradients" and x.requires_grad):
            raise AcceleratorError("unspecified launch failure\\nCompile with TORCH_USE_CUDA_DSA", 719)
        return self.body(x)


def make():
    return Network()
'''


@pytest.fixture
def study(tmp_path):
    """A folder with a study of one network that can be made to fail."""
    (tmp_path / "net.py").write_text(CODE)
    spec = {
        "study": "faults",
        "seed": 3,
        "images": {"sample": "foolbox", "size": 32, "keep": "all", "count": 20},
        "models": {"n": {"network": f"python:{tmp_path / 'net.py'}:make", "weights": "random:1", "size": 32,
                         "mean": [0, 0, 0], "std": [1, 1, 1]}},
        "attacks": {"mi": {"steps": 2}, "fgsm": {}},
        "experiments": {"one": {"attacks": ["mi", "fgsm"], "sources": "each"}},
        "numerics": {"batch": 4},
        "run": {"shard": 1, "flush_seconds": 0},
    }  # fmt: skip
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    return tmp_path


@pytest.mark.slow
def test_a_machine_whose_device_fails_costs_no_unit(study):
    """Its worker ends with each failure; whether that happens often enough to set it aside is a matter of time."""
    with Machines(2) as machines:
        (study / "bad").write_text(str(machines.nodes[1]))
        words = [study / "spec.yaml", "--output", study / "run", "--address", machines.address, "--allow-code"]
        status, printed = finish(start("launch", *words), 240)
    assert status == 0, printed
    assert not (study / "run" / "failures.json").exists()
    assert "has ended, and another takes its place: the processor of" in printed
    assert "AcceleratorError: unspecified launch failure" in printed
    for bad in ("ray::", "\x1b", "Traceback", "TORCH_USE_CUDA_DSA"):
        assert bad not in printed


def _memory(what: str) -> int:
    (line,) = [one for one in Path("/proc/meminfo").read_text().splitlines() if one.startswith(f"{what}:")]
    return 1024 * int(line.split()[1])


EATER = """
import sys, time
eaten = []
while sys.stdin.readline():
    eaten.append(bytearray(b"x") * int(sys.argv[1]))
    print(len(eaten), flush=True)
"""


@pytest.mark.slow
def test_memory_that_another_process_takes_for_a_moment_costs_nothing(study):
    """Ray's own monitor kills workers, as on a shared machine; lines report it."""
    total, used = _memory("MemTotal"), _memory("MemTotal") - _memory("MemAvailable")
    room = 5 * 2**30
    if used + 2 * room > total:
        pytest.skip("there is no memory to take")
    spec = yaml.safe_load((study / "spec.yaml").read_text())
    spec["attacks"] = {"mi": {"steps": 300}, "pgd": {"steps": 300}}
    spec["experiments"] = {"one": {"attacks": ["mi", "pgd"], "sources": "each"}}
    spec["run"]["actors"] = 2
    (study / "spec.yaml").write_text(yaml.safe_dump(spec))
    watched = {"RAY_memory_usage_threshold": f"{(used + room) / total:.3f}", "RAY_memory_monitor_refresh_ms": "250"}
    eater = subprocess.Popen(
        [sys.executable, "-c", EATER, str(room // 4)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        process = start("launch", study / "spec.yaml", "--output", study / "run", "--allow-code", **watched)
        wait_for_parts(study / "run", 2, process)
        for _ in range(5):
            eater.stdin.write("\n")
            eater.stdin.flush()
            eater.stdout.readline()
            if len(workers_below([process.pid])) < 2:
                break
        until(lambda: len(workers_below([process.pid])) < 2 or process.poll() is not None, "no worker was ended", 30)
        eater.kill()
        status, printed = finish(process, 240)
    finally:
        eater.kill()
        eater.wait()
    assert status == 0, printed
    assert not (study / "run" / "failures.json").exists()
    said = [line for line in printed.splitlines() if "memory ran out on" in line]
    assert said, printed
    assert re.search(
        r"[\d.]+ of [\d.]+ GiB were in use and the limit is [\d.]+ GiB; Ray's workers used", " ".join(printed.split())
    )
    assert "Refer to the documentation" not in printed
