"""A study whose source is a set of weights: a source only, which predicts nothing, in one process and on Ray."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from safetensors.torch import save_file

from study.models import Model, loading
from study.planning import resume
from study.results.verify import verify
from study.spec.loading import from_data
from study.storage.run_folder import RunFolder
from tests.conftest import rows
from tests.undisturbed.undisturbed import assert_undisturbed, launch

NETWORK = "timm:test_resnet"

SPEC = {
    "study": "sets",
    "seed": 3,
    "images": {"sample": "foolbox", "size": 48, "keep": "all", "count": 4},
    "models": {
        "set": {"network": NETWORK, "weights": {"set": "weights/*.safetensors"}, "size": 48, "role": "source"},
        "file": {"network": NETWORK, "weights": "file:weights/w1.safetensors", "size": 48},
        "other": {"network": "torchvision:squeezenet1_1", "weights": "random:1", "size": 48},
        "silent": {"network": NETWORK, "weights": "random:8", "size": 48, "role": "source"},
    },
    "attacks": {
        "lgv": {"steps": 3},
        "mba": {"steps": 2, "views": [{"repeat": 3}], "forward": [{"gaussian_weights": {"samples": 3}}]},
        "mi": {"steps": 2},
    },
    "experiments": {
        "drawn": {"attacks": ["lgv", "mba"], "sources": ["set"]},
        "plain": {"attacks": ["mi"], "sources": "each"},
        "both": {"attacks": ["mi"], "sources": [["set", "other"]], "targets": ["file"]},
    },
    "numerics": {"batch": 2, "threads": 1},
    "run": {"shard": 2, "actors": 1, "flush_seconds": 0},
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with three files of weights and the spec."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    for number in range(3):
        model = loading.load("m", Model.model_validate({"network": NETWORK, "weights": f"random:{number}"}))
        state = {name: tensor.contiguous() for name, tensor in model.network.state_dict().items()}
        save_file(state, tmp_path / "weights" / f"w{number}.safetensors")
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    return tmp_path


def test_a_study(door, here):
    """Killed by a limit, continued, complete: rows of all targets, none of the sources that are no targets."""
    whole, cut = here / "whole", here / "cut"
    status, printed, error = door("launch", "spec.yaml", "--output", whole, "--inline")
    assert (status, error) == (0, ""), printed
    assert "set, silent: loading, without predictions" in printed
    assert "clean accuracy: file " in printed
    assert "set " not in printed.split("clean accuracy:")[1].splitlines()[0]
    found = rows(whole)
    assert set(found["target"]) == {"file", "other"}
    sets = {"+".join(one) for one in found["sources"]}
    assert sets == {"set", "file", "other", "silent", "other+set"}
    # One cell a target, and every attack moved the image: lgv 3 gradients, mba 2 x 3.
    counts = {(one["attack"], "+".join(one["sources"])): one["gradients"] for one in found.iter_rows(named=True)}
    assert counts["lgv", "set"] == 3
    assert counts["mba", "set"] == 6
    assert counts["mi", "other+set"] == 4
    relations = {one["target"]: one["relation"] for one in found.filter(attack="lgv").iter_rows(named=True)}
    assert relations == {"file": "grey", "other": "black"}
    assert found["rmsd"].min() > 1

    status, printed, error = door("launch", "spec.yaml", "--output", cut, "--inline", "--limit", 3)
    assert status == 1, printed
    status, printed, error = door("launch", "spec.yaml", "--output", cut, "--inline")
    assert (status, error) == (0, ""), printed
    assert rows(cut).equals(found)
    for run in (whole, cut):
        assert verify(run).whole
    models = json.loads((whole / "models.json").read_text())
    assert set(models) == set(SPEC["models"])
    assert models["set"]["weights"] == 3
    selected = resume.selected(RunFolder(whole))
    assert all(set(one.clean) == {"file", "other"} for shard in selected.shards for one in shard.images)
    for words in (("show", whole), ("plan", "spec.yaml"), ("models", "spec.yaml"), ("validate", "spec.yaml")):
        status, printed, error = door(*words)
        assert (status, error) == (0, ""), printed


def test_the_digest_of_all_files_is_in_the_identity(door, here):
    run = here / "run"
    assert door("launch", "spec.yaml", "--output", run, "--inline")[0] == 0
    ids = set(rows(run).filter(attack="lgv")["craft"])
    # The same weights elsewhere, under other names: nothing is left to do.
    shutil.move(here / "weights", here / "moved")
    (here / "moved" / "w2.safetensors").rename(here / "moved" / "w8.safetensors")
    elsewhere = json.loads(json.dumps(SPEC))
    elsewhere["models"]["set"]["weights"] = {"set": "moved/*.safetensors"}
    elsewhere["models"]["file"]["weights"] = "file:moved/w1.safetensors"
    (here / "spec.yaml").write_text(yaml.safe_dump(elsewhere))
    status, printed, error = door("launch", "spec.yaml", "--output", run, "--inline")
    assert (status, error) == (0, ""), printed
    assert set(rows(run).filter(attack="lgv")["craft"]) == ids
    # One more file: another model, which must have a name of its own.
    shutil.copy(here / "moved" / "w0.safetensors", here / "moved" / "w9.safetensors")
    elsewhere["models"]["more"] = {**elsewhere["models"]["set"]}
    elsewhere["models"]["set"]["weights"] = {"set": "moved/w[0-8].safetensors"}
    elsewhere["experiments"]["drawn"]["sources"] = ["set", "more"]
    (here / "spec.yaml").write_text(yaml.safe_dump(elsewhere))
    status, printed, error = door("launch", "spec.yaml", "--output", run, "--inline")
    assert (status, error) == (0, ""), printed
    assert "more: loading, without predictions" in printed
    more = {one.partition("-")[2] for one in rows(run).filter(attack="lgv")["craft"]}
    assert len(more) == 2
    # A set that changed is not the one that the study began with.
    (here / "moved" / "w8.safetensors").write_bytes((here / "moved" / "w0.safetensors").read_bytes())
    elsewhere["attacks"]["mi"] = {"steps": 3}
    elsewhere["attacks"] = {"lgv": {"steps": 3}, "mba": elsewhere["attacks"]["mba"], "mi": {"steps": 2}}
    elsewhere["experiments"]["late"] = {"attacks": ["fgsm"], "sources": ["set"]}
    (here / "spec.yaml").write_text(yaml.safe_dump(elsewhere))
    status, printed, error = door("launch", "spec.yaml", "--output", run, "--inline")
    assert status != 0
    assert "model 'set'" in printed + error
    assert "have changed since this study began" in printed + error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experiments": {"x": {"attacks": ["lgv"], "sources": ["file"]}}}, "the source 'file' has no set"),
        (
            {"experiments": {"x": {"attacks": ["mi"], "sources": ["set"], "targets": ["set"]}}},
            "'set' can only be a source",
        ),
        (
            {
                "models": SPEC["models"] | {"again": SPEC["models"]["set"]},
                "experiments": {"x": {"attacks": ["lgv"], "sources": [["set", "again"]]}},
            },
            "they are one network with one set of weights",
        ),
        ({"images": SPEC["images"] | {"keep": ["silent"]}}, "cannot select images"),
        (
            {
                "images": SPEC["images"] | {"keep": "correct-for-sources"},
                "experiments": {"x": {"attacks": ["mi"], "sources": ["set"]}},
            },
            "all of them have .role: source.",
        ),
        ({"geometry": {"g": {"probe": "gradient-cosine", "models": ["set"], "images": 2}}}, "cannot be in a probe"),
        (
            {
                "models": {"set": SPEC["models"]["set"]},
                "experiments": {"x": {"attacks": ["mi"], "sources": ["set"]}},
            },
            "no model is left as a target",
        ),
        (
            {"models": SPEC["models"] | {"jpeg": {"model": "set", "transform": {"jpeg": 75}}}},
            "'set' can only be a source",
        ),
    ],
)
def test_what_a_source_only_cannot_do(change, message):
    with pytest.raises(Exception, match=message):
        from_data(SPEC | change, "spec")


def keep_one(folder):
    for number in (0, 2):
        (folder / "weights" / f"w{number}.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (keep_one, "only weights/w1.safetensors matches"),
        (lambda folder: (folder / "weights" / "w2.safetensors").write_bytes(b"x"), "w2.safetensors"),
    ],
    ids=["missing", "damaged"],
)
def test_one_clear_message(door, here, damage, message):
    damage(here)
    status, printed, error = door("launch", "spec.yaml", "--output", here / "run", "--inline")
    assert status == 2
    assert message in error
    assert len(error.strip().splitlines()) <= 4
    assert "Traceback" not in printed + error


@pytest.mark.slow
def test_on_ray(here):
    """Two workers: the rows of one process, and no repair."""
    run, alone = here / "run", here / "alone"
    done = launch("spec.yaml", "--output", run, "--set", "run.actors=2", here=here)
    assert_undisturbed(done, run)
    assert launch("spec.yaml", "--output", alone, "--inline", here=here).status == 0
    assert rows(run).equals(rows(alone))
