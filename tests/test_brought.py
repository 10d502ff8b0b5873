"""What people bring from other tools and other days: lists, checkpoints, units, names. Understood, or told why not."""

from __future__ import annotations

import argparse
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from study.commands.images import list_cell
from study.errors import StudyError
from study.images import decoding
from study.images.image_sets import ImageSet, candidates
from study.images.labels import label_set
from study.images.lists import read_list
from study.images.location import FileImage
from study.images.parquet import read_parquet
from study.models import loading, memory, user_code
from study.models.reference import Model
from study.models.weights import state_dict as weights
from study.spec.loading import load
from tests.conftest import TINY

IMAGENET = label_set("imagenet")


def picture(path, colour=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((60, 70, 3), colour, dtype=np.uint8)).save(path)
    return path


# Units of length


def attack(spec_file, recipe):
    return load(spec_file({"attacks": {"x": recipe}, "experiments": {"e": {"attacks": ["x"], "sources": "each"}}}))


@pytest.mark.parametrize(("recipe", "expected"), [
    ({"preset": "mi", "epsilon": 0.0314}, ["an epsilon of 0.0314 moves no pixel", "8/255", "write 8 if", "attacks.x"]),
    ({"preset": "mi", "budget": {"epsilon": 0.5}}, ["an epsilon of 0.5 moves no pixel", "attacks.x.budget.epsilon"]),
    ({"preset": "fgsm", "budget": {"epsilon": [0.1, 0.9]}}, ["an epsilon of 0.9 moves no pixel"]),
    ({"preset": "fgsm", "budget": {"l2": 0.5}}, ["an L2 norm of 0.5 moves no pixel", "write 127.5 if"]),
    ({"preset": "mi", "epsilon": 1}, ["an epsilon of 1 is probably not what you mean", "or 1/255 if"]),
    ({"preset": "fgsm", "budget": {"epsilon": [0.5, 1]}}, ["an epsilon of 1 is", "attacks.x.budget.epsilon"]),
    ({"preset": "fgsm", "epsilon": {"from": 0.01, "to": 0.06, "by": 0.01}}, ["an epsilon of 0.06 moves no pixel"]),
    ({"preset": "fgsm", "budget": {"rmsd": 0.03}}, ["an RMSD of 0.03 is probably", "or 0.03/255 if"]),
    ({"preset": "fgsm", "budget": {"l2": 3}}, ["an L2 norm of 3 is probably", "write 765 if"]),
    ({"budget": {"minimal": {"from": 0.001, "to": 0.1, "by": 0.001}}, "steps": 1, "step": "l2"},
     ["a search up to an RMSD of 0.1"]),
    ({"preset": "ila", "first": {"preset": "bim", "epsilon": 0.03}}, ["an epsilon of 0.03", "attacks.x.first.epsilon"]),
    ({"preset": "igsm", "epsilon": 8, "step_size": 0.0078}, ["a step size of 0.0078 in 10", "attacks.x.step_size"]),
])  # fmt: skip
def test_lengths_of_pixels_from_0_to_1(spec_file, recipe, expected):
    with pytest.raises(StudyError) as caught:
        attack(spec_file, recipe)
    for part in (*expected, "spec.yaml, line"):
        assert part in str(caught.value)


@pytest.mark.parametrize(("recipe", "epsilon", "size"), [
    ({"preset": "mi", "epsilon": "8/255"}, (8.0,), 0.8),
    ({"preset": "igsm", "epsilon": "4 / 255", "step_size": "0.5/255"}, (4.0,), 0.5),
    ({"preset": "fgsm", "budget": {"epsilon": ["2/255", 8]}}, (2.0, 8.0), None),
    ({"preset": "mi", "epsilon": "1/255"}, (1.0,), 0.1),
    ({"preset": "mi", "epsilon": "0.5/255", "step_size": "0.04/255"}, (0.5,), 0.04),
    ({"preset": "fgsm", "budget": {"epsilon": ["0.5/255", 1]}}, (0.5, 1.0), None),
    ({"preset": "fgsm", "epsilon": {"from": "0.5/255", "to": "1/255", "by": "0.5/255"}}, (0.5, 1.0), None),
    ({"preset": "fgsm", "budget": {"epsilon": [0.5, 2]}}, (0.5, 2.0), None),
    ({"preset": "fgsm", "budget": {"l2": "3/255"}}, (3.0,), None),
    ({"preset": "mi", "epsilon": 2}, (2.0,), 0.2),
])  # fmt: skip
def test_fractions_of_255(spec_file, recipe, epsilon, size):
    found = attack(spec_file, recipe).spec.attacks["x"]
    assert found.budget.levels == epsilon
    assert found.step_size == size


# Lists


@pytest.mark.parametrize(("text", "said"), [
    ("file,label\na\\b.png,3\n", {"a/b.png": (3, None)}),
    ("file,label\na/b.png,3.0\n", {"a/b.png": (3, None)}),
    ("ImageId,TrueLabel,TargetClass\na/b,4.0,8.0\n", {"a/b.png": (3, 7)}),
    ("file,label,target\na/b.png,3,3\n", {"a/b.png": (3, None)}),
])  # fmt: skip
def test_lists_that_are_understood(tmp_path, text, said):
    picture(tmp_path / "a" / "b.png")
    (tmp_path / "list.csv").write_text(text)
    found = read_list(tmp_path, tmp_path / "list.csv", IMAGENET, targets=None, targeted=False)
    assert {one.image: (one.label, one.target) for one in found} == said


@pytest.mark.parametrize(("text", "expected"), [
    ("file,label\na/b.png,tench\n", ["'tench' is not a label", "line 2", "write n01440764 (tench, Tinca tinca)"]),
    ("file,label\na/b.png,crane\n", ["n02012849", "n03126707"]),
    ("file,label\na/b.png,cheshire\n", ["write numbers or names of the label set"]),
    ("img,class\na/b.png,3\n", ["the heading 'img,class' has unknown column names", "line 1", "true_label"]),
    ("file,label\na/b.png,0.5\n", ["'0.5' is not a label"]),
    ("file,label,target\na/b.png,3,3\n", ["the target label of 'a/b.png' is its true label, 3", "line 2"]),
])  # fmt: skip
def test_lists_that_are_not(tmp_path, text, expected):
    picture(tmp_path / "a" / "b.png")
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(StudyError) as caught:
        read_list(tmp_path, tmp_path / "list.csv", IMAGENET, targets=None)
    for part in expected:
        assert part in str(caught.value)


def test_a_target_that_is_the_true_label_counts_in_targeted_studies_alone(door, tmp_path, spec_file):
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "list.csv").write_text("a.png,3,3\n")
    images = {"folder": str(tmp_path / "images"), "list": str(tmp_path / "images" / "list.csv"), "size": 48}
    found = candidates(ImageSet(**images, keep="all"), 0)
    assert found[0].label == 3 != found[0].target_label
    status, _, error = door("validate", spec_file({"images": images | {"keep": "all"}}))
    assert status == 2, "the tiny study is targeted too"
    assert "the target label of 'a.png' is its true label" in error
    experiments = {"single": {"attacks": ["mi"], "sources": "each"}}
    assert door("validate", spec_file({"images": images | {"keep": "all"}, "experiments": experiments}))[0] == 0


# Parquet with named classes


def parquet(path, numbers, names, more=()):
    encoded = picture(path.with_suffix(".png")).read_bytes()
    features = {"label": {"_type": "ClassLabel", "names": names}, "image": {"_type": "Image"}}
    said = json.dumps({"info": {"features": features}}).encode()
    table = pa.table({"image": [encoded] * len(numbers), "label": numbers, **dict(more)})
    pq.write_table(table.replace_schema_metadata({b"huggingface": said}), path)
    return path


FOUR = ["n01440764", "n01484850", "n01494475", "n01498041"]
WORDS = ["tench, Tinca tinca", "great white shark, white shark, man-eater, man-eating shark, Carcharodon carcharias"]


@pytest.mark.parametrize(("names", "labels", "numbers", "right"), [
    (FOUR, "imagenet", [0, 1, 2, 3], [0, 2, 4, 6]),
    (WORDS, "imagenet", [1, 0], [2, 0]),
    (["ship", "Cat"], "cifar10", [0, 1, 1], [8, 3, 3]),
    (["T - shirt / top", "Dress"], "fashion-mnist", [1, 0], [3, 0]),
    (list("abcdefghij"), "cifar10", [0, 9], [0, 9]),
])  # fmt: skip
def test_classes_by_name(tmp_path, names, labels, numbers, right):
    file = parquet(tmp_path / "x.parquet", numbers, names)
    assert [one.label for one in read_parquet(file, label_set(labels), targets=None)] == right


def test_classes_of_other_names(tmp_path):
    file = parquet(tmp_path / "x.parquet", [0, 1], ["ship", "zeppelin"])
    with pytest.raises(StudyError, match="'zeppelin', which is not a label of this study") as caught:
        read_parquet(file, label_set("cifar10"), targets=None)
    assert "images: labels:" in str(caught.value)
    file = parquet(tmp_path / "y.parquet", [0, 7], ["ship", "cat"])
    with pytest.raises(StudyError, match="'7' is not the number of a class"):
        read_parquet(file, label_set("cifar10"), targets=None)


# Image files


def test_only_the_promised_formats_are_opened(tmp_path, monkeypatch):
    """An EPS file under another name would start Ghostscript, which is found on PATH."""
    trap, started = tmp_path / "bin" / "gs", tmp_path / "started"
    trap.parent.mkdir()
    trap.write_text(f"#!/bin/sh\ntouch {started}\n")
    trap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{trap.parent}{os.pathsep}{os.environ['PATH']}")
    file = tmp_path / "a.png"
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(StudyError, match="cannot be read") as caught:
        decoding.decode(FileImage(file), 3)
    assert "JPEG, PNG, WEBP, BMP, TIFF, GIF, PPM" in str(caught.value)
    assert not started.exists()


def test_file_names_that_a_spreadsheet_would_compute(tmp_path):
    assert list_cell("=1+1.png") == "./=1+1.png"
    assert list_cell("a=1.png") == "a=1.png"
    picture(tmp_path / "=1+1.png")
    (tmp_path / "list.csv").write_text("filename,label\n./=1+1.png,3\n")
    assert [one.image for one in read_list(tmp_path, tmp_path / "list.csv", IMAGENET, targets=None)] == ["=1+1.png"]


# Checkpoints


def network():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten())


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize(("content", "expected"), [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", ["is a Git LFS pointer", "git lfs pull"]),
    (b"\n <!DOCTYPE html><html>", ["is a web page", "download the file itself"]),
    (b"", ["is empty"]),
    (b"\x89HDF\r\n\x1a\n0000", ["an HDF5 file, as Keras"]),
])  # fmt: skip
def test_files_that_are_no_weights(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StudyError) as caught:
        weights.read(tmp_path / name)
    for part in (*expected, name):
        assert part in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_model_is_named_and_nobody_is_told_to_run_it(tmp_path, zipped):
    torch.save(network(), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(StudyError) as caught:
        weights.read(tmp_path / "w.pth")
    said = str(caught.value)
    assert "a whole model, pickled with its classes (torch.nn.modules." in said
    assert "model.state_dict()" in said
    assert "weights_only" not in said
    assert "\x1b" not in said


def test_arguments_and_numbers_beside_tensors_are_read(tmp_path):
    state = network().state_dict()
    beside = {"args": argparse.Namespace(lr=0.1), "best": np.float64(3.5), "epoch": np.int64(3)}
    torch.save({"state_dict": state, **beside}, tmp_path / "w.pth")
    found = weights.read(tmp_path / "w.pth")
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_file_is_read_by_what_it_holds(tmp_path):
    state = network().state_dict()
    save_file(state, tmp_path / "w.pth")
    torch.save(state, tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        assert weights.read(tmp_path / name).keys() == state.keys()


@pytest.mark.parametrize("prefix", ["module.model.", "1.", "backbone.net."])
def test_an_unknown_prefix_of_all_names_is_taken_off(prefix):
    given, into = network().state_dict(), network()
    for tensor in into.state_dict().values():
        tensor.zero_()
    weights.load(into, {prefix + name: value for name, value in given.items()}, called="it", origin="w.pth")
    assert all(torch.equal(value, given[name]) for name, value in into.state_dict().items())


@pytest.mark.parametrize(("prefix", "others"), [
    ("1.", {"0.mean": torch.zeros(3), "0.std": torch.ones(3)}),
    ("module.model.", {"module.normalize.mean": torch.zeros(3)}),
    ("model.", {"loss.weight": torch.ones(1)}),
])  # fmt: skip
def test_the_prefix_that_would_fit_is_named(prefix, others):
    state = {prefix + name: value for name, value in network().state_dict().items()} | others
    with pytest.raises(StudyError) as caught:
        weights.load(network(), state, called="it", origin="w.pth")
    assert f"the file has all tensors of the network under '{prefix}', and {min(others)}" in str(caught.value)


# Code and networks


CODE = """
import pathlib
pathlib.Path(__file__).with_suffix(".ran").touch()
def make():
    raise RuntimeError("it ran")
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "evil.py").write_text(CODE)
    return {"network": f"python:{tmp_path / 'evil.py'}:make", "size": 32, "mean": [0, 0, 0], "std": [1, 1, 1]}


@pytest.mark.parametrize("ask", [
    lambda model: loading.check("m", model),
    lambda model: loading.load("m", model),
    memory.build_meta,
    lambda model: user_code.build(model, allowed=False),
], ids=["check", "load", "build_meta", "build"])  # fmt: skip
def test_whatever_builds_a_network_asks_for_permission(own, tmp_path, ask):
    with pytest.raises(StudyError, match="may not run without permission") as caught:
        ask(Model.model_validate(own))
    assert "--allow-code" in str(caught.value)
    assert not (tmp_path / "evil.ran").exists()


@pytest.mark.parametrize("command", ["launch", "profile", "validate", "models", "fetch", "plan"])
def test_no_command_runs_code_by_itself(door, own, tmp_path, spec_file, command):
    """The last two build no network, and need no permission."""
    spec = spec_file({"models": {"m": own}, "experiments": {"e": {"attacks": ["mi"], "sources": "each"}}})
    status, _, error = door(
        command, spec, *(["--output", tmp_path / "out"] if command in ("launch", "profile") else [])
    )
    assert not (tmp_path / "evil.ran").exists()
    assert status == (0 if command in ("fetch", "plan") else 2)
    assert ("--allow-code" in error) == (status == 2)


@pytest.mark.parametrize(("network", "argument"), [
    ("timm:resnet18", "checkpoint_path"),
    ("timm:resnet18", "pretrained_cfg_overlay"),
    ("torchvision:resnet18", "weights"),
])  # fmt: skip
def test_weights_come_by_their_own_key_alone(network, argument):
    with pytest.raises(ValueError, match=f"'{argument}' is not allowed: it would load weights"):
        Model.model_validate({"network": network, "weights": "random:0", "arguments": {argument: "x.pth"}})


@pytest.mark.parametrize(("old", "new"), [
    ("adv_inception_v3", "timm:inception_v3.tf_adv_in1k"),
    ("ens_adv_inception_resnet_v2", "timm:inception_resnet_v2.tf_ens_adv_in1k"),
])  # fmt: skip
def test_networks_that_timm_has_renamed(old, new):
    with pytest.raises(StudyError, match=f"timm has renamed '{old}'") as caught:
        loading.check("m", Model.model_validate(f"timm:{old}"))
    assert new in str(caught.value)


def test_a_zoo_that_cannot_be_imported(monkeypatch):
    def broken():
        raise ModuleNotFoundError("No module named 'six'", name="six")

    monkeypatch.setattr("study.models.zoos.pretrainedmodels.networks", broken)
    with pytest.raises(StudyError, match="No module named 'six'") as caught:
        loading.check("m", Model.model_validate("pretrainedmodels:inceptionresnetv2/imagenet"))
    assert "pip install 'transfer-study[pretrainedmodels]'" in str(caught.value)


def test_the_tiny_study_is_what_it_was(spec_file):
    """Nothing of all this refuses a study that was right."""
    assert load(spec_file(TINY)).spec.study == "tiny"
