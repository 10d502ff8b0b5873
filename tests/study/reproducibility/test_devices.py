"""The device of work in one process: the first GPU where torch has one, unless the spec says otherwise."""

from __future__ import annotations

import types

import pytest
import torch

from actors.backends import in_process
from actors.resources import placement
from actors.resources.placement import WorkerOptions
from study.commands import models
from study.errors import StudyError
from study.models import accuracy
from study.reproducibility import hardware
from study.spec import loading
from tests.conftest import TINY


@pytest.fixture
def gpu(monkeypatch):
    """torch as on a machine with a GPU of which another process uses a part."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 * 2**30, 80 * 2**30))
    sizes = types.SimpleNamespace(total_memory=10 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: sizes)


@pytest.mark.parametrize(("wanted", "device"), [("auto", "cuda:0"), ("gpu", "cuda:0"), ("cpu", "cpu")])
def test_a_gpu_is_used_where_there_is_one(gpu, wanted, device):
    assert hardware.device_here(wanted) == device
    machine = in_process.this_machine()
    assert (machine.gpus, machine.gpu_memory) == (1.0, 60 * 2**30)
    pool = placement.plan_workers([machine], None, WorkerOptions(device=wanted, workers=1))
    assert pool.resources.device == device


def test_a_process_tells_the_memory_that_it_sees(gpu):
    assert hardware.gpu_memory("cuda:0") == 10 * 2**30
    assert hardware.gpu_memory("cpu") is None


def test_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert hardware.device_here("auto") == hardware.device_here("cpu") == "cpu"
    assert in_process.this_machine().gpus == 0
    with pytest.raises(StudyError, match="torch finds no usable GPU"):
        hardware.device_here("gpu")


@pytest.mark.parametrize(("device", "used"), [("auto", "cuda:0"), ("cpu", "cpu")])
def test_the_accuracy_of_models_is_measured_on_the_gpu(gpu, monkeypatch, spec_file, device, used):
    """`study models --accuracy`: the network is arranged for the device that predicts, in the precision of targets."""
    seen, precisions = [], []

    def predict(*_, device, precision, **more):
        seen.append(device)
        precisions.append(precision)
        _Stop.now()

    monkeypatch.setattr(accuracy, "predict", predict)
    monkeypatch.setattr(models.Classifier, "to", lambda self, device: seen.append(device) or self)
    file = loading.load(spec_file(TINY), (f"run.device={device}", "numerics.target_precision=tf32"))
    with pytest.raises(_Stop):
        models.print_models(file, models.Console(quiet=True), models.ModelsOptions(accuracy=True))
    assert seen[-2:] == [used, used]
    assert precisions == ["tf32"]


class _Stop(Exception):
    @classmethod
    def now(cls):
        raise cls
