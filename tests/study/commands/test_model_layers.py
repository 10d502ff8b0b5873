"""`study models --layers`: the layers of a model, so that a spec can name them."""

from __future__ import annotations

import json

import yaml

from tests.conftest import TINY


def spec_of(spec_file, **models):
    changed = yaml.safe_load(TINY)["models"] | models
    return spec_file({"models": changed})


def test_layers_are_printed_by_name(door, spec_file):
    status, printed, error = door("models", spec_file(TINY), "--layers", "b")
    assert (status, error) == (0, "")
    lines = printed.splitlines()
    assert lines[0] == "b: torchvision:squeezenet1_1, family squeezenet"
    assert "    stages: 3: features.4, features.7, features.12" in lines
    assert "    middle: features.7" in lines
    assert "    ends of residual branches: none" in lines
    assert "    activations: 26 relu" in lines
    assert "    head: 1: classifier.1" in lines
    assert any(line.startswith("    patches: unknown: the patches of this SqueezeNet") for line in lines)


def test_layers_as_json_of_a_transformer_and_of_a_model_of_a_model(door, spec_file):
    jpeg = {"model": "t", "transform": {"jpeg": 75}}
    spec = spec_of(spec_file, t={"network": "timm:test_vit", "weights": "random:0", "size": 160}, jpeg=jpeg)
    status, printed, error = door("models", spec, "--layers", "jpeg", "--json")
    assert (status, error) == (0, "")
    found = json.loads(printed)
    assert (found["model"], found["family"]) == ("jpeg", "vision_transformer")
    assert found["patches"] == "16 pixels every 16, from patch_embed, after 1 other tokens"
    assert found["attention"][0] == {
        "name": "blocks.0.attn",
        "qkv": ["blocks.0.attn.qkv"],
        "projection": "blocks.0.attn.proj",
        "map over": "tokens",
    }
    assert len(found["ends of residual branches"]) == 2 * len(found["stages"]) == 2 * len(found["MLPs"])


def test_a_model_that_the_spec_does_not_have(door, spec_file):
    status, printed, error = door("models", spec_file(TINY), "--layers", "d")
    assert (status, printed) == (2, "")
    assert "the spec has no model 'd'" in error
    assert "a, b, c" in error
