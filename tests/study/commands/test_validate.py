"""`study validate`: what is right is told, and what would stop a launch is an error with its place."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.conftest import TINY


def changed(**changes) -> dict:
    return yaml.safe_load(TINY) | changes


def test_a_good_spec(door, spec_file):
    spec = spec_file(TINY)
    status, printed, error = door("validate", spec)
    assert (status, error) == (0, "")
    assert f"{spec} is valid: tiny" in printed
    assert "3 models: a (" in printed
    assert "0 unreadable" in printed
    assert "5 attacks, 2 experiments: single, ensembles" in printed
    assert printed.endswith(f"next: study plan {spec}\n")
    status, printed, _ = door("validate", spec, "--json")
    found = json.loads(printed)
    assert status == 0
    assert found["experiments"] == ["single", "ensembles"]
    assert found["images"]["decoded"] == found["images"]["found"] > 0
    assert found["download"] == []


def test_attacks_that_a_launch_runs_are_counted(door, spec_file):
    attacks = {"a1": {"preset": "mi"}, "a2": {"preset": "mi"}, "ref": {"preset": "mi"}, "probed": {"preset": "fgsm"}}
    attacks["matched"] = {"preset": "fg", "budget": {"rmsd": "matched", "to": "ref"}}
    along = {"attack": "probed", "sources": ["a"]}
    line = {"probe": "intervals", "along": along, "distances": {"from": 0, "to": 9, "by": 3}}
    experiments = {"one": {"attacks": ["a1", "matched"], "sources": "each"}}
    spec = spec_file({"attacks": attacks, "experiments": experiments, "geometry": {"line": line}})
    assert "4 attacks, 1 experiment: one" in door("validate", spec)[1], "all but a2"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"images": {"sample": "foolbox", "keep": "all", "count": 5000}}, ["needs 5,000 images", "images.count"]),
        ({"images": {"folder": "nowhere"}}, ["nowhere", "images"]),
        ({"models": {"a": "package:no_such_package"}}, ["no_such_package", "models.a"]),
        ({"models": {"a": {"network": "timm:test_resnet", "weights": "file:gone.pt"}}}, ["gone.pt", "models.a"]),
        ({"models": {"a": "python:somewhere:net"}}, ["--allow-code", "models.a"]),
    ],
)
def test_what_would_stop_a_launch(door, spec_file, changes, says):
    experiments = {"single": {"attacks": ["mi"], "sources": "each"}}
    spec = spec_file(changes | {"attacks": {"mi": {"steps": 2}}, "experiments": experiments})
    status, printed, error = door("validate", spec)
    assert status == 2
    assert "is valid" not in printed
    for part in says:
        assert part in error


def test_unreadable_images_are_named(door, spec_file, tmp_path, shared):
    folder = tmp_path / "photographs" / "n01440764"
    folder.mkdir(parents=True)
    for image in sorted((shared / "data" / "imagenet-sample").rglob("*.JPEG"))[:2]:
        (folder / image.name).symlink_to(image)
    (folder / "torn.JPEG").write_bytes(b"\xff\xd8\xff")
    images = {"folder": str(tmp_path / "photographs"), "size": 64, "keep": "all", "corrupt": "leave-out"}
    status, printed, error = door("validate", spec_file({"images": images}))
    assert status == 0, error
    assert "3 images, 1 unreadable" in printed
    assert "left out: n01440764/torn.JPEG" in printed
