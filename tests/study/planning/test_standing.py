"""`study plan` and `study validate` beside a run folder: what they say of it is what a launch then does."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import yaml

SMALL = """
study: growing
seed: 3
images: {sample: foolbox, size: 32, keep: all, count: 4}
models:
  a: {network: "timm:test_resnet", weights: "random:1", size: 32}
  b: {network: "timm:test_resnet", weights: "random:2", size: 32}
attacks:
  mi: {steps: 1}
  fg: {budget: {rmsd: matched, to: mi, by: image}}
experiments:
  one: {attacks: [mi, fg], sources: {each: [a, b]}}
  two: {attacks: [mi], sources: {each: [a]}, goal: targeted}
geometry:
  cosine: {probe: gradient-cosine, models: [a, b]}
numerics: {batch: 2, threads: 1}
run: {shard: 2, actors: 1, flush_seconds: 0}
"""
UNITS = 2 * (4 + 1) + 2
"""Two shards of five attack runs, and a probe on two shards."""


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished(SMALL), tmp_path / "run")


@pytest.fixture
def asked(door, spec_file, run):
    """Asks `study plan` and `study validate` about the run and a changed spec: both records, and what plan prints."""

    def ask(change=lambda spec: None):
        spec = yaml.safe_load(SMALL)
        change(spec)
        path = spec_file(yaml.safe_dump(spec))
        answers = []
        for command in ("plan", "validate"):
            status, printed, error = door(command, path, "--output", run, "--json")
            assert status == 0, error
            answers.append(json.loads(printed)["run"]["standing"])
        assert answers[0] == answers[1]
        status, printed, _ = door("plan", path, "--output", run)
        assert status == 0
        return answers[0], printed

    return ask


def more(spec):
    spec["models"]["c"] = {"network": "timm:test_resnet", "weights": "random:3", "size": 32}
    spec["experiments"]["one"]["attacks"].append("fgsm")


def fewer(spec):
    del spec["experiments"]["two"]


def test_the_same_spec(asked, run):
    standing, printed = asked()
    assert standing == {
        "units": UNITS,
        "done": UNITS,
        "left": 0,
        "partly": 0,
        "outside": 0,
        "new": "",
        "images": 4,
        "more_images": False,
        "predicts_first": [],
    }
    assert f"{run}: 12 of 12 units done, 0 left" in printed


def test_additions_are_counted_as_the_launch_counts_them(asked, door, tmp_path, run):
    """The new model is a target of every attack run, so that each of their units is to be shown to it."""
    standing, printed = asked(more)
    assert standing["new"] == "1 new model (c), 1 new attack (fgsm), experiment one changed"
    assert standing["predicts_first"] == ["c"]
    assert f"{run}: 2 of 16 units done, 14 left (10 of them have rows for some targets)" in printed
    assert "since its last launch: 1 new model (c), 1 new attack (fgsm)" in printed
    assert "first, clean images are predicted: c" in printed
    status, launched, error = door("launch", tmp_path / "spec.yaml", "--output", run)
    assert status == 0, error
    [line] = re.findall(r"= (\d+) units, (\d+) left to do", launched)
    attacks = {"units": standing["units"] - 2, "left": standing["left"]}
    assert attacks == {"units": int(line[0]), "left": int(line[1])}
    assert asked(more)[0]["left"] == 0


def test_what_is_removed_stays(asked):
    standing, printed = asked(fewer)
    assert (standing["left"], standing["outside"]) == (0, 2)
    assert "removed: experiment two" in printed
    assert "kept: 2 finished units of earlier specs; reports leave out their rows" in printed


def test_more_images(asked):
    standing, printed = asked(lambda spec: spec["images"].update(count=6))
    assert standing["more_images"]
    assert standing["new"] == "images.count 6 in place of 4"
    assert "12 of 12 units on the 4 images selected so far done" in printed
    assert "first, clean images are predicted: further images" in printed


def test_what_a_launch_refuses(door, spec_file, run):
    path = spec_file(SMALL.replace("mi: {steps: 1}", "mi: {steps: 2}"))
    said = "belongs to another spec: attacks.mi.steps is 1 there, and 2 in this spec"
    status, printed, error = door("plan", path, "--output", run)
    assert (status, error) == (0, "")
    assert f"{run}: a launch would be refused: the run folder {run} {said}" in printed
    assert "spec.yaml, line" in printed
    assert "give the changed attack another name" in printed
    status, printed, _ = door("plan", path, "--output", run, "--json")
    assert said in json.loads(printed)["run"]["standing"]["refused"]["what"]
    status, printed, error = door("validate", path, "--output", run)
    assert status == 2
    assert said in error
    assert "is valid" not in printed


def test_no_launch_yet(door, spec_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = spec_file(SMALL)
    assert "growing: no launch yet" in door("plan", path)[1]
    status, printed, _ = door("validate", path)
    assert status == 0
    assert "launch yet" not in printed


def test_numbers_that_a_launch_chooses_are_not_compared(door, spec_file, run):
    path = spec_file(SMALL.replace("mi: {steps: 1}", "mi: {steps: 1, tune: {images: 2, over: {momentum: [0, 1]}}}"))
    status, printed, error = door("plan", path, "--output", run)
    assert status == 0, error
    assert "progress unknown: the spec tunes attacks" in printed
