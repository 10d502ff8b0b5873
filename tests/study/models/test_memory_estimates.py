"""Estimates of the memory of models: of every local model, and kept from one launch to the next."""

from __future__ import annotations

import json

import pytest

from study.errors import StudyError
from study.images.labels import label_set
from study.models import memory
from study.models.memory_estimates import estimates
from study.models.reference import Model

MODELS = {
    "a": Model.model_validate({"network": "timm:test_resnet", "weights": "random:0", "size": 64}),
    "b": Model.model_validate({"network": "torchvision:squeezenet1_1", "weights": "random:1", "size": 64}),
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def estimated(batch=4, lines=None):
    say = (lambda line: None) if lines is None else lines.append
    return estimates(MODELS, labels=label_set("imagenet"), channels=3, batch=batch, allow_code=False, say=say)


def test_every_model_is_estimated(home):
    expected = [memory.estimate(memory.build_meta(one), channels=3, size=64, batch=4) for one in MODELS.values()]
    assert estimated() == dict(zip(MODELS, expected, strict=True))


def test_estimates_are_kept_and_a_damaged_file_is_made_again(home, monkeypatch):
    first = estimated()
    kept = home / "study" / "memory-1.json"
    assert len(json.loads(kept.read_text())) == 2
    monkeypatch.setattr("study.models.memory.estimate", lambda *_, **__: pytest.fail("it was kept"))
    assert estimated() == first
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    kept.write_text("{")
    assert estimated() == first
    assert estimated(batch=8)["a"].gradient > first["a"].gradient


def test_a_network_that_cannot_be_estimated(home, monkeypatch):
    def refuse(*_, **__):
        raise StudyError("no idea")

    monkeypatch.setattr("study.models.memory.estimate", refuse)
    lines = []
    assert estimated(lines=lines) is None
    assert lines == ["the memory of model 'a' cannot be estimated, so memory is not planned: no idea"]
