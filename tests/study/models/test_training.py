"""Training: it learns, it repeats itself to the byte, it writes whole files only, and it refuses what it cannot use."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn import functional

from study.errors import StudyError
from study.images import records
from study.models import training_data
from study.models.adversarial_training import PGD, worst
from study.models.classifier import Classifier
from study.models.networks import NETWORKS, PREPROCESSING
from study.models.predict import predict
from study.models.training import FULLY_CONNECTED, train
from study.models.weights import state_dict

FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(autouse=True)
def _forget():
    yield
    records.read.cache_clear()


def idx(array) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(folder, *, labels=10, side=28):
    """Prototypes under noise, dark with some bright pixels as digits are: easy, and not learnt by remembering."""
    generator = np.random.default_rng(0)
    prototypes = 255.0 * (generator.random((labels, side, side)) < 0.2)
    folder.mkdir()
    for prefix, count in (("train", 400), ("t10k", 100)):
        marks = np.arange(count, dtype=np.uint8) % labels
        pixels = (0.7 * prototypes[marks] + generator.uniform(0, 76, (count, side, side))).astype(np.uint8)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx(pixels))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(marks))
    return folder


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "data")


def quiet(line: str) -> None:
    assert line


SHORT = {"epochs": 4, "batch": 20, "say": quiet}


@pytest.mark.parametrize("depth", [0, 2, pytest.param(4, marks=pytest.mark.slow), 8])  # between two and eight
def test_every_depth_learns_and_its_file_says_what_it_is(data, tmp_path, depth):
    said = []
    (found,) = train(data, [f"mnist_fnn{depth}"], tmp_path / "out", epochs=12, batch=20, say=said.append)
    assert found.accuracy == 1.0
    assert found.path == tmp_path / "out" / f"mnist_fnn{depth}.safetensors"
    assert len(said) == 12
    assert said[-1].startswith(f"mnist_fnn{depth}: epoch 12 of 12, loss ")
    assert said[-1].endswith(", test accuracy 100.0 %")

    name = found.path.stem
    network = NETWORKS[name]()
    state_dict.load(network, state_dict.read(found.path), called=name, origin=str(found.path))
    model = Classifier(network, PREPROCESSING[name], labels=10, identity=name)
    pixels, labels = records.read(data, "test")
    assert (predict(model, pixels, batch=16).top5[:, 0] == labels).all()

    with safe_open(found.path, "np") as opened:
        record = json.loads(opened.metadata()["study"])
    assert record.pop("data")
    assert record == {
        "accuracy": 1.0, "batch": 20, "depth": depth, "epochs": 12, "learning_rate": 0.05, "seed": 0, "threads": 1,
    }  # fmt: skip


def test_the_same_seed_gives_the_same_bytes_whatever_was_drawn_before(data, tmp_path):
    def trained(folder, **changes):
        torch.rand(7)
        return [
            one.path.read_bytes()
            for one in train(data, ["mnist_fnn2", "mnist_fnn0"], tmp_path / folder, **{**SHORT, **changes})
        ]

    once = trained("once")
    assert trained("again") == once
    assert all(other != one for other, one in zip(trained("seed", seed=1), once, strict=True))
    # A network does not depend on the others that are trained with it.
    (alone,) = train(data, ["mnist_fnn0"], tmp_path / "alone", **SHORT)
    assert alone.path.read_bytes() == once[1]


@pytest.mark.parametrize("name", ["mnist_cnn", pytest.param("mnist_vit", marks=pytest.mark.slow)])
def test_adversarial_training_is_on_the_images_of_its_attack_and_repeats_itself(data, tmp_path, name):
    attack, options = PGD(40.0, steps=2), {"epochs": 3, "batch": 20, "say": quiet}
    (plain,) = train(data, [name], tmp_path, **options)
    (secured,) = train(data, [name], tmp_path, adversarial=attack, **options)
    (again,) = train(data, [name], tmp_path / "again", adversarial=attack, **options)
    assert plain.robust is None
    assert secured.path.name == f"{name}_adversarial.safetensors"
    assert again.path.read_bytes() == secured.path.read_bytes() != plain.path.read_bytes()
    pixels, labels = records.read(data, "test")
    images, answers = torch.tensor(pixels) / 255, torch.tensor(labels)
    network = NETWORKS[name]().eval()
    state_dict.load(network, state_dict.read(secured.path), called=name, origin=str(secured.path))
    near = worst(network, images, answers, PGD(40.0, steps=20), 1)
    assert (near - images).abs().max() <= 40 / 255 + 1e-6
    assert near.min() >= 0
    assert near.max() <= 1
    with torch.no_grad():
        before, after = (functional.cross_entropy(network(one), answers) for one in (images, near))
        right = float((network(near).argmax(1) == answers).double().mean())
    assert after > before
    assert secured.robust == pytest.approx(right, abs=0.1)
    with safe_open(secured.path, "np") as opened:
        record = json.loads(opened.metadata()["study"])
    assert record["adversarial"] == {"epsilon": 40.0, "steps": 2}
    assert record["robust"] == secured.robust


def test_other_data_has_another_digest(data, tmp_path):
    def digest(folder):
        records.read.cache_clear()
        (found,) = train(data, ["mnist_fnn0"], tmp_path / folder, **{**SHORT, "epochs": 1})
        with safe_open(found.path, "np") as opened:
            return json.loads(opened.metadata()["study"])["data"]

    before = digest("before")
    path = data / "t10k-labels-idx1-ubyte"
    content = bytearray(path.read_bytes())
    content[-1] = 0
    path.write_bytes(content)
    assert digest("after") != before


def refused(data, networks, output, **changes) -> StudyError:
    with pytest.raises(StudyError) as raised:
        train(data, networks, output, **{**SHORT, **changes})
    return raised.value


def test_nothing_is_written_over_and_nothing_is_trained_before_that_is_known(data, tmp_path):
    (tmp_path / "mnist_fnn4.safetensors").write_bytes(b"mine")
    error = refused(data, ["mnist_fnn0", "mnist_fnn4"], tmp_path)
    assert "mnist_fnn4.safetensors exists" in error.what
    assert "--output" in (error.todo or "")
    assert (tmp_path / "mnist_fnn4.safetensors").read_bytes() == b"mine"
    assert not (tmp_path / "mnist_fnn0.safetensors").exists()


def test_unknown_networks_and_folders_that_cannot_be_made(data, tmp_path):
    error = refused(data, ["mnist_fnn3"], tmp_path / "out")
    assert "'mnist_fnn3'" in error.what
    assert "mnist_fnn2" in (error.accepted or "")
    (tmp_path / "file").write_text("")
    assert "cannot be created" in refused(data, ["mnist_fnn0"], tmp_path / "file" / "out").what


def test_other_images_and_other_labels_are_refused(tmp_path):
    error = refused(write(tmp_path / "small", side=20), ["mnist_fnn0"], tmp_path / "out")
    assert "1 x 20 x 20" in error.what
    assert "28 x 28" in (error.accepted or "")
    assert "has the label 25" in refused(write(tmp_path / "letters", labels=26), ["mnist_fnn0"], tmp_path / "out").what
    (tmp_path / "cifar").mkdir()
    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
        (tmp_path / "cifar" / name).write_bytes(bytes(3073))
    assert "3 x 32 x 32" in refused(tmp_path / "cifar", ["mnist_fnn0"], tmp_path / "out").what


def test_training_that_diverges_leaves_no_file(data, tmp_path):
    error = refused(data, ["mnist_fnn4"], tmp_path / "out", learning_rate=1e6)
    assert "diverges" in error.what
    assert error.status == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_is_whole_or_not_there(data, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training_data.os, "fsync", full)
    assert "No space left" in refused(data, ["mnist_fnn0"], tmp_path / "out").what
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_real_images(tmp_path):
    found = {one.network: one.accuracy for one in train(FASHION, list(FULLY_CONNECTED), tmp_path, say=quiet)}
    assert found.pop("mnist_fnn0") > 0.83
    assert min(found.values()) > 0.87
