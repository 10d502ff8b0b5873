"""Ray's own autoscaler, with its fake machines, from no machine on: a study waits, grows with the cluster, and ends.

It is started as `ray.cluster_utils.AutoscalingCluster` starts it, on a host of its own: that class would first end
every Ray on this machine.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.actors.launch.test_launch import assert_same_rows
from tests.cluster.hosts import BIN, Host, hosts, refused
from tests.cluster.test_two_hosts import STUDY, finish
from tests.conftest import run_here

pytestmark = pytest.mark.slow

SPEC = """
study: growing
images: {sample: foolbox, size: 48, keep: all, count: 20}
models:
  c: {network: "timm:test_resnet", weights: "random:2", size: 48}
attacks: {mi: {steps: STEPS, step_size: 1}}
experiments: {x: {attacks: [mi], sources: each, goal: [untargeted, targeted]}}
numerics: {batch: 2, threads: 1}
run: {shard: 1, flush_seconds: 0}
"""


def config(**machines: object) -> dict[str, object]:
    """The fake cluster of Ray's own tests, whose example is not in its package."""
    empty = {"docker": {}, "auth": {}, "file_mounts": {}, "cluster_synced_files": [], "rsync_exclude": []}
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    types = {
        name: {"resources": {"object_store_memory": 2**27, **resources}, "node_config": {}, "min_workers": 0}
        | {"max_workers": most}
        for name, (resources, most) in machines.items()
    }
    return {
        "cluster_name": "fake",
        "max_workers": 8,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": types | {"head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}},
        "head_node_type": "head",
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.1,
        "file_mounts_sync_continuously": False,
        "rsync_filter": [],
        **empty,
        **{f"{name}_commands": [] for name in commands},
    }


@contextmanager
def growing(folder: Path, **machines: object) -> Iterator[tuple[Host, dict[str, str]]]:
    """A host with a head of no cores, whose autoscaler adds `machines` when asked; and its environment."""
    if reason := refused():
        pytest.skip(reason)
    path = folder / "autoscaling.json"
    # Ray's fake provider looks for its head under this type.
    text = json.dumps(config(**machines)).replace('"head"', '"ray.head.default"')
    path.write_text(text)
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.urandom(32).hex(), "HOME": str(folder)}
    env |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    with hosts(1) as (host,):
        words = ("--head", "--port=6379", f"--node-ip-address={host.address}", "--num-cpus=0", "--num-gpus=0")
        host.ray("start", *words, f"--object-store-memory={2**27}", f"--autoscaling-config={path}", env=env)
        yield host, env


ASKED = """
import ray
from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray.experimental.internal_kv import _internal_kv_get
import sys, time
ray.init(sys.argv[1], logging_level="ERROR", log_to_driver=False)
print("asked:", _internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL).decode())
for _ in range(60):
    if sum(node["Alive"] for node in ray.nodes()) == 1:
        print("only the head is left")
        break
    time.sleep(1)
"""


GPU = """
import sys
from actors.backends.ray_backend import RayBackend
from actors.resources import placement
from actors.resources.waiting import Waiting
from study.spec.run_options import RunOptions
backend = RayBackend(sys.argv[1])
def fits(options):
    placement.plan_workers(backend.machines(), None, options)
options = Waiting(backend, RunOptions(), print, lambda: None).machines_for(placement.WorkerOptions(), fits)
pool = placement.plan_workers(backend.machines(), None, options)
(machine,) = [one for one in backend.machines() if one.gpus]
print(pool.workers, "on", pool.resources.device, machine.gpus, machine.gpu_memory, machine.host)
backend.close()
"""


def test_a_cluster_scales_from_zero(tmp_path):
    """It starts, grows to its two machines, ends complete, and the machines leave again. Then a GPU is asked for."""
    spec, run = tmp_path / "spec.yaml", tmp_path / "run"
    spec.write_text(SPEC.replace("STEPS", "100"))
    with growing(tmp_path, small=({"CPU": 1}, 2), gpu=({"CPU": 0, "GPU": 1}, 1)) as (host, env):
        address = f"{host.address}:6379"
        words = ("launch", spec, "--output", run, "--address", address, "--set", "run.device=cpu")
        status, printed = finish(host.start(*STUDY, *words, env=env))
        assert status == 0, printed
        assert "waiting for a machine, 900 s at most" in printed
        assert "the autoscaler is asked" in printed
        assert re.search(r"a machine came after \d+ s", printed), printed
        assert "1 worker on cpu" in printed
        assert [slot["up"] for slot in json.loads((run / "status.json").read_text())["slots"]] == [True, True], printed
        status, left = host.run(BIN / "python", "-c", ASKED, address, env=env)
        assert "asked: []" in left
        assert "only the head is left" in left
        status, printed = host.run(BIN / "python", "-c", GPU, address, env=env)
        assert status == 0, printed
        assert "waiting for a GPU, 60 s at most if no machine is about to join: no machine has a GPU; the" in printed
        assert f"1 on cuda:0 1.0 None {host.name}" in printed
    assert run_here(spec, tmp_path / "here")[0] == 0
    assert_same_rows(run, tmp_path / "here")
