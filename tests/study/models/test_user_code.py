"""Networks from code of the user's own."""

from __future__ import annotations

import hashlib
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from study.errors import StudyError
from study.images.labels import label_set
from study.models import Model, loading
from study.models.classifier import Native
from study.reproducibility.imported_files import root_of, sources
from tests.conftest import ROOT

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
    return loading.load("m", Model.model_validate(given), labels=LABELS, allow_code=True)


def test_a_file(file):
    classifier = load({"network": f"python:{file}:trained", **INPUT})
    assert classifier.preprocessing.interpolation == "bilinear"
    assert all(bool((parameter == 0.5).all()) for parameter in classifier.network.parameters())
    assert classifier(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert loading.native(Model.model_validate({"network": f"python:{file}:trained", **INPUT}), classifier) == Native(
        16, 16, "bilinear", "crop"
    )


def test_a_module(tmp_path, monkeypatch):
    (tmp_path / "mine_in_a_module.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    classifier = load({"network": "python:mine_in_a_module:small", "arguments": {"width": 6}, **INPUT})
    assert classifier.network[0].out_channels == 6
    del sys.modules["mine_in_a_module"]


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
    with pytest.raises(StudyError, match="may not run without permission") as caught:
        loading.check("m", model, labels=LABELS)
    assert "--allow-code" in str(caught.value)
    loading.check("m", model, labels=LABELS, allow_code=True)
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize(("given", "message"), [
    ({"size": None, "std": None}, "size, std missing"),
    ({"weights": "zoo:best"}, "has no weights 'zoo:best'"),
    ({"network": "python:nowhere.py:trained"}, "nowhere.py .* does not exist"),
    ({"network": "python:{file}:tranied"}, "has no function 'tranied'"),
    ({"network": "python:no_such_module:trained"}, "no module 'no_such_module'"),
    ({"network": "python:no.such.module:trained"}, "no module 'no.such.module'"),
])  # fmt: skip
def test_what_can_be_seen_beforehand(file, given, message):
    given = {"network": f"python:{file}:trained", **INPUT} | given
    given["network"] = given["network"].replace("{file}", str(file))
    model = Model.model_validate({key: value for key, value in given.items() if value is not None})
    with pytest.raises(StudyError, match=message):
        loading.check("m", model, labels=LABELS, allow_code=True)


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
    path.write_text("import nothing_of_the_kind\n\n\ndef small():\n    pass\n")
    for _ in range(2):
        with pytest.raises(StudyError, match="cannot be built: ModuleNotFoundError"):
            load({"network": f"python:{path}:small", **INPUT})


HELPED = """
import helper
from parts.layers import width


def make():
    return helper.network(width)
"""
HELPER = """
import torch
from torch import nn


def network(width):
    made = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.fill_(0.5)
    return made
"""


def helped(folder, helper=HELPER, layers="from . import numbers\nwidth = numbers.WIDTH\n"):
    (folder / "parts").mkdir(parents=True)
    for name, text in {"net.py": HELPED, "helper.py": helper, "parts/__init__.py": "", "parts/layers.py": layers,
                       "parts/numbers.py": "WIDTH = 4\n", "unused.py": str(folder)}.items():  # fmt: skip
        (folder / name).write_text(text)
    return {"network": f"python:{folder / 'net.py'}:make", **INPUT}


def test_what_is_imported_from_beside_is_part_of_the_model(tmp_path):
    """Directly or not; two folders have helpers of one name, each its own; a changed helper is read again."""
    given = helped(tmp_path / "one")
    first = load(given).digest
    assert load(helped(tmp_path / "copy")).digest == first
    other = load(helped(tmp_path / "other", HELPER.replace("0.5", "0.75")))
    assert other.digest != first
    assert all(bool((parameter == 0.75).all()) for parameter in other.network.parameters())
    assert load(given).digest == first
    (tmp_path / "one" / "helper.py").write_text(HELPER + "\n# the same weights, another text\n")
    assert load(given).digest != first
    (tmp_path / "one" / "helper.py").write_text(HELPER)
    (tmp_path / "one" / "parts" / "numbers.py").write_text("WIDTH = 2 + 2\n")
    assert load(given).digest != first
    assert not [path for path in sys.path if str(tmp_path) in path]


def test_a_module_counts_with_its_package(tmp_path, monkeypatch):
    helped(tmp_path / "package_of_mine", HELPER)
    (tmp_path / "package_of_mine" / "__init__.py").write_text("")
    net = tmp_path / "package_of_mine" / "net.py"
    net.write_text(HELPED.replace("import helper", "from . import helper").replace("from parts", "from .parts"))
    monkeypatch.syspath_prepend(tmp_path)
    found = sources(net, root_of(net))
    names = ("helper.py", "net.py", "parts/layers.py", "parts/numbers.py")
    assert sorted(found) == [f"package_of_mine/{name}" for name in names]
    load({"network": "python:package_of_mine.net:make", **INPUT})
    for name in [one for one in sys.modules if one.partition(".")[0] == "package_of_mine"]:
        del sys.modules[name]


def test_what_is_installed_is_no_part_of_a_file():
    import timm.models

    assert list(sources(Path(timm.models.__file__), ROOT)) == []


UNSTEADY = """
import random

import numpy as np
import torch
from torch import nn


class Noisy(nn.Module):
    def __init__(self, draw):
        super().__init__()
        self.head = nn.Linear(3, 10)
        self.draw = draw

    def forward(self, x):
        return self.head(x.mean((2, 3)) + self.draw(x))


def noisy():
    return Noisy(lambda x: 0.3 * torch.randn(len(x), 3))


def pythons():
    return Noisy(lambda x: 0.3 * random.random())


def numpys():
    return Noisy(lambda x: torch.from_numpy(np.random.rand(len(x), 3)).float())


def seeded():
    def draw(x):
        torch.manual_seed(0)
        return torch.randn(len(x), 3)

    return Noisy(draw)


class Stubborn(nn.BatchNorm2d):
    def train(self, mode=True):
        return super().train(True)


def norms():
    return nn.Sequential(nn.Conv2d(3, 4, 3), Stubborn(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))


class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 10)

    def forward(self, x):
        return self.head(nn.functional.dropout(x).mean((2, 3)))


def dropped():
    return Dropped()


def neighbours():
    return Noisy(lambda x: x.mean((0, 2, 3)))


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 10)
        self.times = 0

    def forward(self, x):
        self.times += 1
        return self.head(x.mean((2, 3))) * self.times


def counting():
    return Counting()


def steady():
    return Noisy(lambda x: 0)
"""


@pytest.mark.parametrize(("function", "message"), [
    ("noisy", "gives different logits when it sees the same four images again: the logits change by "),
    ("pythons", "gives different logits when it sees the same four images again"),
    ("numpys", "gives different logits when it sees the same four images again"),
    ("seeded", "gives different logits when it sees an image without the others"),
    ("norms", r"without the others of its batch.*in training mode: 1 \(Stubborn\)"),
    ("dropped", "gives different logits when it sees the same four images again"),
    ("neighbours", "gives different logits when it sees an image without the others"),
    ("counting", "gives different logits when it sees the same four images again"),
])  # fmt: skip
def test_networks_whose_answer_is_not_the_images_alone(tmp_path, function, message):
    (tmp_path / "mine.py").write_text(UNSTEADY)
    with pytest.raises(StudyError, match=message) as caught:
        load({"network": f"python:{tmp_path / 'mine.py'}:{function}", **INPUT})
    assert "(model 'm')" in str(caught.value)
    assert ".eval()" in str(caught.value)


def test_a_steady_network_passes_and_no_generator_moves(tmp_path):
    (tmp_path / "mine.py").write_text(UNSTEADY)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    load({"network": f"python:{tmp_path / 'mine.py'}:steady", **INPUT})
    with pytest.raises(StudyError, match="different logits"):
        load({"network": f"python:{tmp_path / 'mine.py'}:counting", **INPUT})
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])
