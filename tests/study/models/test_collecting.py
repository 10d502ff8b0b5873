"""Weights that are collected around a trained network: by hand, repeated to the byte, and used by an attack."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from study.errors import StudyError
from study.images import records
from study.models.collecting import collect
from study.models.networks import NETWORKS
from study.models.training import train
from study.reproducibility.rng import draws
from tests.conftest import rows, run_here
from tests.study.models.test_training import quiet, write

SHORT = {"count": 4, "epochs": 2, "batch": 40, "say": quiet}


@pytest.fixture
def data(tmp_path):
    yield write(tmp_path / "data")
    records.read.cache_clear()


@pytest.fixture
def start(data, tmp_path):
    (found,) = train(data, ["mnist_fnn2"], tmp_path / "weights", epochs=2, batch=20, say=quiet)
    return found.path


def by_hand(start, data, learning_rate, steps, seed=0, batch=40):
    """The weights after so many steps of gradient descent with momentum 0.9 and weight decay 1e-4, in float64."""
    network = NETWORKS["mnist_fnn2"]().double()
    network.load_state_dict(load_file(start))
    pixels, labels = (torch.tensor(one) for one in records.read(data, "train"))
    velocity = [torch.zeros_like(one) for one in network.parameters()]
    each = len(labels) // batch
    for step in range(steps):
        words = draws(len(labels), "collecting", start.stem, seed, "order", step // each)
        order = torch.tensor(sorted(range(len(labels)), key=lambda row: (words[row], row)))
        rows = order[step % each * batch :][:batch]
        scores = network(pixels[rows].double() / 255).log_softmax(1)
        loss = -scores[torch.arange(batch), labels[rows].long()].mean()
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for one, gradient, kept in zip(network.parameters(), gradients, velocity, strict=True):
                kept.mul_(0.9).add_(gradient + 1e-4 * one)
                one.sub_(learning_rate * kept)
    return network.state_dict()


def test_they_are_those_of_gradient_descent_at_equal_intervals(start, data, tmp_path):
    found = collect(data, start, tmp_path, learning_rate=0.01, **SHORT)
    assert found.folder == tmp_path / "mnist_fnn2_lgv"
    files = sorted(found.folder.iterdir())
    assert [one.name for one in files] == [f"{number}.safetensors" for number in (1, 2, 3, 4)]
    for file, steps in zip(files, (5, 10, 15, 20), strict=True):
        wanted = by_hand(start, data, 0.01, steps)
        for name, one in load_file(file).items():
            torch.testing.assert_close(one.double(), wanted[name], rtol=1e-3, atol=1e-5)
    with safe_open(files[1], "np") as opened:
        record = json.loads(opened.metadata()["study"])
    assert (record["network"], record["step"], record["learning_rate"]) == ("mnist_fnn2", 10, 0.01)
    assert found.worst <= record["accuracy"] <= found.best


def test_they_repeat_themselves_to_the_byte(start, data, tmp_path):
    def collected(folder, **changes):
        found = collect(data, start, tmp_path / folder, **{**SHORT, **changes})
        return [one.read_bytes() for one in sorted(found.folder.iterdir())]

    once = collected("once")
    torch.rand(3)
    assert collected("again") == once
    assert collected("seed", seed=1) != once


def test_a_study_attacks_them(start, data, tmp_path):
    """One after the other by `lgv`, and around their mean by `mba`; the network itself is a target."""
    collect(data, start, tmp_path, **SHORT)
    pattern = f"{tmp_path}/mnist_fnn2_lgv/*.safetensors"
    spec = {
        "study": "vicinity",
        "seed": 0,
        "images": {"records": str(data), "split": "test", "size": 28, "channels": 1, "keep": "all", "count": 4,
                   "labels": "fashion-mnist"},
        "models": {
            "set": {"network": "mnist_fnn2", "weights": {"set": pattern}, "role": "source"},
            "one": {"network": "mnist_fnn2", "weights": f"file:{start}"},
        },
        "attacks": {"lgv": {"steps": 2}, "mba": {"steps": 2}},
        "experiments": {"x": {"attacks": ["lgv", "mba"], "sources": [["set"]]}},
        "numerics": {"batch": 2, "threads": 1},
    }  # fmt: skip
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    status, printed = run_here(tmp_path / "spec.yaml", tmp_path / "run")
    assert status == 0, printed
    found = rows(tmp_path / "run")
    assert set(found["target"]) == {"one"}
    assert set(found["attack"]) == {"lgv", "mba"}
    assert found["rmsd"].min() > 0


def refused(*given, **changes):
    with pytest.raises(StudyError) as caught:
        collect(*given, **{**SHORT, **changes})
    return caught.value


def test_what_cannot_be_collected(start, data, tmp_path):
    assert "does not exist" in refused(data, tmp_path / "none.safetensors", tmp_path).what
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    assert "is not a weights file of `study train`" in refused(data, tmp_path / "other.safetensors", tmp_path).what
    assert (
        "21 sets of weights cannot be collected in 20 training steps" in refused(data, start, tmp_path, count=21).what
    )
    assert "diverges" in refused(data, start, tmp_path, learning_rate=1e6).what
    assert not [one for one in tmp_path.iterdir() if "lgv" in one.name]
    (tmp_path / "mnist_fnn2_lgv").mkdir()
    assert "exists already" in refused(data, start, tmp_path).what


def test_the_command(start, data, tmp_path, door):
    status, printed, error = door(
        "train", data, "--output", tmp_path, "--collect", start, "--count", 3, "--epochs", 1, "--network", "mnist_cnn"
    )
    assert status == 2
    assert "excludes --network" in error
    status, printed, error = door("train", data, "--output", tmp_path, "--collect", start, "--count", 3, "--epochs", 1)
    assert (status, error) == (0, "")
    assert "3 weights of " in printed
    assert f'weights: {{set: "{tmp_path}/mnist_fnn2_lgv/*.safetensors"}}' in " ".join(printed.split())
