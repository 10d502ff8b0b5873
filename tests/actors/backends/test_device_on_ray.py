"""A GPU that fails, on real Ray with GPUs that are not there: it stays reserved, and no later actor works on it."""

from __future__ import annotations

import functools
import os
import sys
import time

import numpy as np
import pytest
import ray

from actors.backends.ray_backend import RayBackend
from actors.resources.placement import ModelCapacity, ResourceRequest, WorkerPool
from actors.scheduling.backlog import Task
from actors.scheduling.limits import Limits
from actors.scheduling.scheduler import Done, Scheduler
from actors.workers.ray_actors import WorkerActor
from actors.workers.worker_config import WorkerConfig
from study.images.labels import label_set
from study.reproducibility import hardware
from study.reproducibility.numerics import Numerics

GPUS = 3
BROKEN = "1"


class OnGpu:
    """A worker that computes nothing, and fails on one GPU."""

    def __init__(self, config, device):
        assert device == "cuda:0"
        # The actor asks the driver of the GPU for its memory. There is no driver here.
        hardware.gpu_memory = lambda device: 2.0**34

    def hello(self):
        return None

    def predict(self, request, job, pixels):
        gpu = os.environ["CUDA_VISIBLE_DEVICES"]
        if gpu == BROKEN:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")
        time.sleep(0.05)
        return gpu


class Actor(WorkerActor):
    kind = OnGpu


@pytest.fixture
def backend(monkeypatch):
    monkeypatch.setattr(ray, "init", functools.partial(ray.init, num_gpus=GPUS))
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    found = RayBackend("local", store=lambda gpus: 100 * 2**20)
    found._worker = ray.remote(max_restarts=0, max_task_retries=0)(Actor)
    yield found
    found.close()
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def execute(made, backend, count):
    """The GPU of each of `count` tasks."""
    pixels = backend.put(np.zeros((1, 3, 4, 4), np.uint8))
    for job in range(count):
        made.add(Task("predict", {"m": None}, job, lambda: pixels, 1.0, job))
    events, deadline = [], time.monotonic() + 120
    while not made.idle:
        assert time.monotonic() < deadline, f"{len(events)} of {count} tasks have ended"
        events += made.step(0.5)
    assert sorted(event.task.job for event in events) == list(range(count))
    assert all(isinstance(event, Done) for event in events)
    return {event.value for event in events}


@pytest.mark.slow
def test_a_gpu_that_fails_is_never_used_again(backend):
    config, said = WorkerConfig({}, label_set("imagenet"), 3, 0, Numerics()), []
    pool = WorkerPool(GPUS, ResourceRequest(0, 1), capacity=ModelCapacity(2))
    made = Scheduler(backend, pool, config, limits=Limits(3, 60), elastic=True, say=said.append)
    made.start(lambda: None)
    deadline = time.monotonic() + 240
    while not said:
        # A new process on the broken GPU takes longer than many tasks.
        assert time.monotonic() < deadline, "the GPU is not set aside"
        assert execute(made, backend, 20) <= {"0", "2"}
    (line,) = said
    assert line.startswith("GPU 1 of ")
    assert "RuntimeError: CUDA error: an illegal memory access was encountered" in line
    assert line.endswith("is set aside, 2 workers from now on")
    (machine,) = backend.machines()
    assert machine.gpus == GPUS - 1
    # The process that reserved it dies, and so does a worker: Ray may give the broken GPU to the next actor.
    ((parked,),) = (list(held) for of_node in backend._parked.values() for held in of_node.values())
    backend.stop(parked)
    backend.stop(next(iter(made._actors)).actor)
    assert execute(made, backend, 100) <= {"0", "2"}
    assert len(said) == 1
    assert made.workers == 2
