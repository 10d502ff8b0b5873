"""Where memory runs out, passes are halved, and the rows say how many images the smaller ones had."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actors.scheduling.messages import CraftJob, PredictJob
from actors.workers.model_cache import ModelRequest
from actors.workers.worker import Worker
from actors.workers.worker_config import WorkerConfig
from study.attacks import Attack
from study.attacks.presets import keys_of
from study.images.labels import label_set
from study.models import Model
from study.models.classifier import Classifier
from study.reproducibility.numerics import Numerics

NETWORK = Model.model_validate({"network": "timm:test_resnet", "weights": "random:1", "size": 32})
IMAGES = tuple("abcdefgh")
CLEAN = np.random.default_rng(0).integers(0, 256, (8, 3, 32, 32), dtype=np.uint8)


@pytest.fixture
def worker():
    return Worker(WorkerConfig({"m": NETWORK}, label_set("imagenet"), 3, 0, Numerics(batch=8)), "cpu")


@pytest.fixture(params=[None, 4], ids=["enough memory", "memory for 4"])
def room(request, monkeypatch):
    """A device with memory for so many images at a time."""
    whole = Classifier.logits

    def limited(self, pixels):
        if request.param is not None and len(pixels) > request.param:
            raise torch.OutOfMemoryError
        return whole(self, pixels)

    monkeypatch.setattr(Classifier, "logits", limited)
    return request.param


def test_rows_have_the_passes_that_ran(worker, room):
    attack = Attack.model_validate(keys_of("mi", {"steps": 1}))
    labels = tuple(range(8))
    job = CraftJob(attack, "untargeted", ("k",), IMAGES, labels, labels, None)
    request = ModelRequest({"m": None})
    result, crafted = worker.craft(request, job, CLEAN)
    assert result.distances.passes == room
    shown = worker.predict(request, PredictJob(("m",), 8, IMAGES), crafted)
    assert shown.targets[0].answers.passes == room
    assert (result.note is None) == (shown.note is None) == (room is None)
