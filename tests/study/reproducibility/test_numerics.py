"""Precision belongs to the passes of networks; `auto` is settled once; a GPU's kernels repeat their bits."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from actors.workers.worker import Worker
from actors.workers.worker_config import WorkerConfig
from study.attacks import Attack
from study.attacks.loop import Engine, ImageBatch, craft
from study.attacks.presets import keys_of
from study.errors import StudyError
from study.images.labels import label_set
from study.planning import identity_format1
from study.process import children
from study.reproducibility import numerics
from study.reproducibility.numerics import Numerics
from study.spec.loading import resolve
from study.spec.spec_file import SpecFile
from study.spec.yaml_document import Document, parse
from tests.conftest import TINY

CLEAN = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
GIVEN = ImageBatch(CLEAN, np.array([1, 2]), ["a", "b"])


class Operations(TorchDispatchMode):
    """Notes for each kind of matrix product or convolution whether TF32 was allowed."""

    def __init__(self):
        super().__init__()
        self.allowed = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().removeprefix("aten::").partition(".")[0]
        flags = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
        self.allowed.setdefault(name, set()).add(flags)
        return function(*args, **(kwargs or {}))


def tiny_network():
    """Forward `addmm`, backward `mm`: no other part of the attack below has these."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 5)).requires_grad_(False)


def crafted(keys, precision, watched=None):
    attack = Attack.model_validate(keys)
    with watched or torch.enable_grad():
        return craft([tiny_network()], attack, "untargeted", GIVEN, key=("k",), engine=Engine(4, precision=precision))


def test_tf32_reaches_the_network_and_no_pixel_algebra(monkeypatch):
    """DI's matrices are `bmm`, TI's kernel is a `convolution`; the network has `addmm` and, backwards, `mm`."""
    # On a CPU, DI has no matrices, and TI no convolution.
    for component in ("diversity", "kernel"):
        monkeypatch.setattr(f"study.attacks.components.{component}.is_host", lambda device: False)
    watched = Operations()
    crafted(keys_of("mi+di+ti", {"steps": 2}), "tf32", watched)
    assert watched.allowed["addmm"] == watched.allowed["mm"] == {(True, True)}
    assert watched.allowed["bmm"] == watched.allowed["convolution"] == {(False, False)}
    assert not torch.backends.cuda.matmul.allow_tf32


def test_strict_float32_is_strict_in_a_process_that_allows_tf32():
    torch.backends.cudnn.allow_tf32 = True
    try:
        watched = Operations()
        crafted(keys_of("mi", {"steps": 1}), "float32", watched)
        assert watched.allowed["addmm"] == {(False, False)}
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = False


def test_flags_are_put_back_after_an_error():
    with pytest.raises(KeyError), numerics.network_pass("tf32", "cpu"):
        raise KeyError
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


def test_auto_is_what_the_device_suits_and_stays_what_it_was_called():
    assert [numerics.settled("auto", device) for device in ("cpu", "cuda:0")] == ["float32", "tf32"]
    assert numerics.settled("float32", "cuda:0") == "float32"
    plain = Numerics()
    assert plain.identity() == Numerics(precision="float32").identity() == plain.settled("cpu").identity() == {}
    assert plain.settled("cuda:0").identity() == Numerics(precision="tf32").identity() == {"precision": "tf32"}
    assert Numerics(target_precision="tf32", batch=4).identity() == {"batch": 4, "target_precision": "tf32"}
    assert Numerics(precision="bfloat16").identity()["precision"] != "bfloat16"


def test_ids_of_the_first_format_know_no_auto():
    spec = resolve(parse(f"format: 1\n{TINY}", "spec")).spec
    found = identity_format1.probe.__globals__["_numerics"](spec)
    assert found["precision"] == "float32"
    assert "target_precision" not in found


def test_a_spec_is_settled_for_a_device():
    spec = resolve(parse(TINY, "spec")).spec
    file = SpecFile(spec, Document("spec", {}))
    assert file.settled("cuda:0").spec.numerics.precision == "tf32"
    assert file.settled("cpu").spec.numerics.precision == "float32"
    assert file.spec.numerics.precision == "auto"


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """What a worker on a GPU sets in its process, without a GPU."""
    for name in children.GPU_DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    with numerics.restored():
        yield
    for name in children.GPU_DEFAULTS:
        os.environ.pop(name, None)
    assert not torch.are_deterministic_algorithms_enabled()


class Asks(torch.nn.Module):
    """A network that notes the flags of its process, and may use an operation without a deterministic kernel."""

    def __init__(self, *, puts=False):
        super().__init__()
        self.seen, self.inner, self.puts = [], tiny_network(), puts

    def forward(self, pixels):
        self.seen.append(torch.are_deterministic_algorithms_enabled())
        if self.puts:
            pixels = pixels.put(torch.tensor([0]), torch.zeros(1))
        return self.inner(pixels)


def worker(**given):
    config = WorkerConfig({}, label_set("imagenet"), 3, 0, Numerics.model_validate(given))
    return Worker(config, "cuda:0")


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_gpu_worker_computes_with_kernels_that_repeat(as_on_a_gpu, deterministic):
    worker(deterministic=deterministic)
    asks = Asks()
    craft([asks], Attack.model_validate(keys_of("mi", {"steps": 2})), "untargeted", GIVEN, key=("k",), engine=Engine(4))
    assert asks.seen == [deterministic] * 2
    assert torch._inductor.config.deterministic is deterministic
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert {name: os.environ[name] for name in children.GPU_DEFAULTS} == children.GPU_DEFAULTS


def test_an_operation_without_such_a_kernel_is_explained(as_on_a_gpu):
    at = worker()
    attack = Attack.model_validate(keys_of("mi", {"steps": 1}))
    with pytest.raises(RuntimeError) as raised:
        craft([Asks(puts=True)], attack, "untargeted", GIVEN, key=("k",), engine=Engine(4))
    told = at._located(raised.value)
    assert isinstance(told, StudyError)
    assert "put_" in told.what
    assert "numerics.deterministic" in (told.todo or "")
    assert numerics.not_deterministic(RuntimeError("another")) is None


def test_a_process_on_a_cpu_is_left_as_it_is():
    with numerics.restored():
        numerics.fix(1)
        assert not torch.are_deterministic_algorithms_enabled()


def test_each_worker_of_a_gpu_gets_its_part_of_the_memory(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: asked.append(given))
    numerics.limit_memory("cuda:0", 0.5)
    numerics.limit_memory("cpu", 0.5)
    assert asked == [(0.45, torch.device("cuda:0"))]


def test_the_environment_of_workers_has_what_deterministic_kernels_need():
    given = children.environment(children.RAY, {"PATH": "/bin"})
    assert given["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert given["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    own = {"CUBLAS_WORKSPACE_CONFIG": ":16:8"}
    assert children.environment(children.RAY, own)["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert "CUBLAS_WORKSPACE_CONFIG" not in children.environment(children.HELPER, {})
