"""`study fetch`: what it says of weights that it cannot look for."""

from __future__ import annotations

import pytest


def test_weights_that_only_open_clip_finds_are_named_and_not_claimed(door, spec_file, monkeypatch):
    open_clip = pytest.importorskip("open_clip", reason="the extra `clip` is not installed")
    experiments = {"x": {"attacks": ["mi"], "sources": ["a"]}}
    models = {"a": {"network": "timm:test_resnet", "weights": "random:2", "size": 56}}
    spec = {"attacks": {"mi": {"steps": 2}}, "experiments": experiments}
    status, printed, _ = door("fetch", spec_file(spec | {"models": models}))
    assert (status, printed) == (0, "all weights of tiny are on this machine\n")
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda network, tag: {"url": "https://host/clip.pt"})
    status, printed, _ = door("fetch", spec_file(spec | {"models": models | {"clip": "open_clip:ViT-B-32/openai"}}))
    assert status == 0
    assert " ".join(printed.split()) == (
        "weights that only open_clip itself can find, and downloads when a study runs: clip "
        "all other weights of tiny are on this machine"
    )
