"""Networks from code of the user's own."""

from __future__ import annotations

import hashlib

import pytest
import torch

from study.errors import StudyError
from study.labels import label_set
from study.models import Model, zoo
from study.models.classifier import Native

CODE = """
import torch
from torch import nn

print("this ran")


def small(width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def trained():
    network = small()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.5)
    return network


def nothing():
    return 3


def pair():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    return Pair()


def broken():
    raise KeyError("inside")
"""
INPUT = {"size": 16, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
LABELS = label_set("cifar10")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


def load(given):
    return zoo.load("m", Model.model_validate(given), labels=LABELS, allow_code=True)


def test_a_file(file):
    classifier = load({"network": f"python:{file}:trained", **INPUT})
    assert classifier.preprocessing.interpolation == "bilinear"
    assert all(bool((parameter == 0.5).all()) for parameter in classifier.network.parameters())
    assert classifier(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert zoo.native(Model.model_validate({"network": f"python:{file}:trained", **INPUT}), classifier) == Native(
        16, 16, "bilinear", "crop"
    )


def test_a_module(tmp_path, monkeypatch):
    (tmp_path / "mine_in_a_module.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    classifier = load({"network": "python:mine_in_a_module:small", "arguments": {"width": 6}, **INPUT})
    assert classifier.network[0].out_channels == 6


def test_other_weights(file, tmp_path):
    own = load({"network": f"python:{file}:small", "weights": "random:1", **INPUT})
    again = load({"network": f"python:{file}:small", "weights": "random:1", **INPUT})
    other = load({"network": f"python:{file}:small", "weights": "random:2", **INPUT})
    assert own.digest == again.digest != other.digest
    torch.save(own.network.state_dict(), tmp_path / "weights.pth")
    read = load({"network": f"python:{file}:small", "weights": f"file:{tmp_path / 'weights.pth'}", **INPUT})
    assert read.digest == own.digest


def test_the_source_is_part_of_the_model(file, tmp_path):
    """Where it lies is not; a changed file is read again."""
    given = {"network": f"python:{file}:trained", **INPUT}
    first = load(given).digest
    copy = tmp_path / "copy.py"
    copy.write_text(CODE)
    assert load(given | {"network": f"python:{copy}:trained"}).digest == first
    file.write_text(CODE + "\n# changed\n")
    assert load(given).digest != first
    assert hashlib.sha256(copy.read_bytes()).digest() != hashlib.sha256(file.read_bytes()).digest()


def test_nothing_runs_unless_allowed(file, capsys):
    model = Model.model_validate({"network": f"python:{file}:trained", **INPUT})
    with pytest.raises(StudyError, match="was not allowed") as caught:
        zoo.check("m", model, labels=LABELS)
    assert "--allow-code" in str(caught.value)
    zoo.check("m", model, labels=LABELS, allow_code=True)
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize(("given", "message"), [
    ({"size": None, "std": None}, "size, std missing"),
    ({"weights": "zoo:best"}, "has no weights 'zoo:best'"),
    ({"network": "python:nowhere.py:trained"}, "nowhere.py .* does not exist"),
    ({"network": "python:no_such_module:trained"}, "no module 'no_such_module'"),
    ({"network": "python:no.such.module:trained"}, "no module 'no.such.module'"),
])  # fmt: skip
def test_what_can_be_seen_beforehand(file, given, message):
    given = {"network": f"python:{file}:trained", **INPUT} | given
    model = Model.model_validate({key: value for key, value in given.items() if value is not None})
    with pytest.raises(StudyError, match=message):
        zoo.check("m", model, labels=LABELS, allow_code=True)


@pytest.mark.parametrize(("function", "message"), [
    ("smal", "has no function 'smal'"),
    ("nothing", "returned int, not a network"),
    ("pair", "its output is tuple, not a matrix of logits"),
    ("broken", "cannot be built: KeyError: 'inside'"),
])  # fmt: skip
def test_functions_that_make_no_classifier(file, function, message):
    with pytest.raises(StudyError, match=message):
        load({"network": f"python:{file}:{function}", **INPUT})


def test_a_file_that_does_not_run(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import nothing_of_the_kind\n")
    for _ in range(2):
        with pytest.raises(StudyError, match="cannot be built: ModuleNotFoundError"):
            load({"network": f"python:{path}:small", **INPUT})
