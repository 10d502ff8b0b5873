"""What a study's work needs: sums of its models' estimates, kept from one launch to the next."""

from __future__ import annotations

import json

import pytest

from study.images.labels import label_set
from study.models import memory
from study.models.memory_needs import Passes, Work, needs
from study.models.reference import Model

MODELS = {
    "a": Model.model_validate({"network": "timm:test_resnet", "weights": "random:0", "size": 64}),
    "b": Model.model_validate({"network": "torchvision:squeezenet1_1", "weights": "random:1", "size": 64}),
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def asked(sources, said=None, batch=4, passes=None, apart=False):
    say = (lambda line: None) if said is None else said.append
    work = [Work(one, passes or Passes(batch, batch), apart) for one in sources]
    return needs(
        MODELS,
        work,
        labels=label_set("imagenet"),
        channels=3,
        size=32,
        predictions=Passes(batch, batch),
        allow_code=False,
        say=say,
    )


def test_sums_by_hand(home):
    a, b = (memory.estimate(memory.build_meta(model), channels=3, size=64, batch=4) for model in MODELS.values())
    images = 8 * 4 * 3 * 32 * 32 * 4
    alone = asked([("a",), ("b",)])
    assert alone.held == {"a": a.parameters, "b": b.parameters}
    assert alone.peak == max(a.gradient, b.gradient) + images
    assert alone.working == max(a.gradient - a.parameters, b.gradient - b.parameters) + images
    both = asked([("a", "b")])
    assert both.peak == a.gradient + b.gradient + images
    assert "gradients of a + b, 4 images at a time" in both.largest
    held = a.parameters + b.parameters
    larger = asked([("a", "b")], passes=Passes(12, 256))
    assert larger.peak == 3 * both.peak - 2 * held
    assert larger.elsewhere().peak == 64 * both.peak - 63 * held
    twice = asked([("a", "b")], batch=8)
    assert asked([("a", "b")], passes=Passes(8, 8)).peak == pytest.approx(twice.peak, rel=0.02), "it grows with images"
    apart = asked([("a", "b")], apart=True)
    assert apart.peak == held + max(a.gradient - a.parameters, b.gradient - b.parameters) + images
    assert asked([]).peak == max(a.forward, b.forward) + images, "images made elsewhere are only predicted"


def test_estimates_are_kept_and_a_damaged_file_is_made_again(home, monkeypatch):
    first = asked([("a",)])
    kept = home / "study" / "memory-1.json"
    assert len(json.loads(kept.read_text())) == 2
    monkeypatch.setattr("study.models.memory.estimate", lambda *_, **__: pytest.fail("it was kept"))
    assert asked([("a",)]) == first
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    kept.write_text("{")
    assert asked([("a",)]) == first
    assert asked([("a",)], batch=8).peak > first.peak


def test_what_cannot_be_told_is_said(home, monkeypatch):
    from study.errors import StudyError

    def refuse(*_, **__):
        raise StudyError("no idea")

    monkeypatch.setattr("study.models.memory.estimate", refuse)
    said = []
    assert asked([("a",)], said) is None
    assert said == ["what model 'a' needs cannot be estimated, so memory is not planned with: no idea"]
