"""A worker whose device fails, or whose memory runs out: what its actor answers, and what it does not try again."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
import torch

from actors.backends.in_process import InProcess
from actors.backends.interface import BackendGone, CallFailed, Device, DeviceLost
from actors.resources.placement import WORKER, ResourceRequest
from actors.scheduling.messages import PredictJob
from actors.workers import code_digest
from actors.workers.model_cache import ModelCache, ModelRequest
from actors.workers.ray_actors import WorkerActor, pack, unpack_answer
from actors.workers.worker import Worker
from actors.workers.worker_config import WorkerConfig
from study.attacks.recipe import Search
from study.errors import StudyError
from study.events import repairs
from study.images.labels import label_set
from study.models.reference import Model
from study.reproducibility.numerics import Numerics
from tests.study.models.test_predict import Tight

ASSERT = "CUDA error: device-side assert triggered"
GPU = Device("n1", "host", "GPU 3", gpu=True)


def config():
    models = {name: Model.model_validate({"network": "timm:test_resnet", "weights": "random:1"}) for name in "ab"}
    return WorkerConfig(models, label_set("imagenet"), 3, 0, Numerics())


class Scripted:
    """A worker that raises, or returns, what its next job is."""

    def __init__(self, config, device):
        if isinstance(config, Exception):
            raise config
        self.config = config

    def hello(self):
        return self.config()

    def predict(self, request, job, pixels):
        if isinstance(job, Exception):
            raise job
        if isinstance(job, tuple):
            raise job[1] from job[0]
        return job


class Actor(WorkerActor):
    kind = Scripted


def answered():
    return "ready"


def failing():
    raise RuntimeError("No CUDA GPUs are available")


def actor(monkeypatch, config=answered):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setattr("socket.gethostname", lambda: "host")
    return Actor(pack(config), "cuda:0", code_digest.running().digest, lambda: "n1", lambda told: None)


def call(made, job):
    return unpack_answer(made.predict(pack((ModelRequest({}), job)), None))


@pytest.mark.parametrize(
    "job",
    [
        torch.AcceleratorError(ASSERT),
        (RuntimeError(ASSERT), StudyError("my.py, line 7: fix the file")),
        RuntimeError("GET was unable to find an engine to execute this computation"),
    ],
    ids=["as it is", "at a line of a user's file", "no engine"],
)
def test_after_a_device_failure_an_actor_executes_nothing_more(monkeypatch, job):
    made = actor(monkeypatch)
    assert call(made, 5) == 5
    with pytest.raises(DeviceLost) as caught:
        call(made, job)
    lost = pickle.loads(pickle.dumps(caught.value))
    assert lost.device == GPU
    assert re.match(r"GPU 3 of host failed: (AcceleratorError|RuntimeError): (CUDA error|GET was)", str(lost))
    assert "Traceback (most recent call last)" in lost.traceback
    with pytest.raises(DeviceLost) as again:
        call(made, 5)
    assert again.value is caught.value


@pytest.mark.parametrize(
    ("job", "kind"),
    [
        (ValueError("shapes"), CallFailed),
        (RuntimeError("CUDA error: invalid argument"), CallFailed),
        (torch.OutOfMemoryError("CUDA out of memory"), CallFailed),
        (StudyError("bad weights"), StudyError),
    ],
)
def test_other_errors_leave_the_actor_as_it_is(monkeypatch, job, kind):
    made = actor(monkeypatch)
    with pytest.raises(kind):
        call(made, job)
    assert call(made, 5) == 5


def test_a_device_that_fails_the_first_call_is_named(monkeypatch):
    for broken in (actor(monkeypatch, failing), actor(monkeypatch, RuntimeError(ASSERT))):
        with pytest.raises(CallFailed) as caught:
            broken.hello()
        assert caught.value.device == GPU
        assert caught.value.what.startswith("RuntimeError: ")


def test_a_worker_on_a_gpu_uses_it_before_it_is_up(monkeypatch):
    """Not the name of the GPU alone is asked for, which a broken one still tells."""
    used = []
    monkeypatch.setattr("study.reproducibility.float_environment.here", used.append)
    worker = Worker(config(), "meta")
    with pytest.raises(RuntimeError, match="meta"):
        worker.hello()
    assert used == [], "the convolution comes first, and what it returns is read"
    Worker(config(), "cpu").hello()
    assert used == ["cpu"]


def test_in_one_process_a_device_failure_ends_the_launch():
    """Nothing here can take the place of the process."""

    def broken(*given):
        raise torch.AcceleratorError(ASSERT)

    backend = InProcess()
    worker = backend.start(WORKER, ResourceRequest(1, 0), config())
    worker.predict = broken
    ref = backend.call(worker, "predict", (ModelRequest({}), None), backend.put(np.zeros(1, np.uint8))).value
    with pytest.raises(BackendGone, match=ASSERT) as caught:
        backend.wait([ref], 1.0)
    assert caught.value.status == 1
    assert isinstance(caught.value.__cause__, torch.AcceleratorError), "for a debugger"
    worker.hello = broken
    with pytest.raises(BackendGone, match=ASSERT):
        backend.hello(worker)


def test_a_device_error_is_not_that_of_the_line_where_it_arrives():
    """CUDA reports it at whatever line runs then, also one in a user's file."""
    error = torch.AcceleratorError(ASSERT)
    assert Worker(config(), "cpu")._located(error) is error


class Target(Tight):
    """A target with room for some images, which always sees label 0."""

    def describe(self):
        return {}

    def logits(self, images):
        found = super().logits(images)
        return torch.ones_like(found).cumsum(1).flip(1)


@pytest.mark.parametrize(("fits", "told"), [(4, "4 images"), (1, "1 image")])
def test_a_search_remembers_what_fits(fits, told):
    """Each image and each batch of levels is a call of its own."""
    tries = []

    class Counted(Target):
        def logits(self, images):
            tries.append(len(images))
            return super().logits(images)

    worker, target = Worker(config(), "cpu"), Counted(fits, RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    worker._cache.get = lambda request: [target]
    clean = np.full((5, 3, 2, 2), 100, np.float32)
    search = Search(levels=tuple(range(1, 33)), goal="untargeted", labels=(0,) * 5, images=tuple("vwxyz"), key=("k",))
    job = PredictJob(("a",), 16, tuple("vwxyz"), search)
    rays = np.stack([clean, np.ones_like(clean)])
    found = worker.predict(ModelRequest({"a": None}), job, rays)
    assert found.note == f"out of memory on a: predicted in passes of {told}, so rounding may differ"
    assert tries.count(16) == 1
    assert tries.count(8) == 1
    assert set(tries) == {size for size in (16, 8, 4, 2, 1) if size >= fits}


def test_a_model_that_does_not_fit_takes_the_place_of_others(monkeypatch):
    """It is loaded again when the failed attempt is free, whatever the words for that."""
    cache, tried = ModelCache(config(), "cpu"), []

    def load(name):
        tried.append((name, sorted(cache._held)))
        if name == "b" and cache._held:
            raise StudyError("model 'b' cannot be loaded") from RuntimeError("CUDA error: out of memory")
        return name

    monkeypatch.setattr(cache, "_loaded", load)
    repairs.taken()
    cache._held["a"] = cache._loaded("a")
    tried.clear()
    assert cache._load_new("b", ModelRequest({"b": None})) == "b"
    assert tried == [("b", ["a"]), ("b", [])]
    (repair,) = repairs.taken()
    assert "had no memory left for b" in repair.what
