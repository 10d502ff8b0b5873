"""A user's files on another machine: components, whole attacks and networks travel by their text."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from actors.launch.launch import launch
from actors.launch.options import LaunchOptions
from actors.scheduling.messages import CraftJob, PredictJob
from actors.workers.model_cache import ModelRequest
from actors.workers.worker import Worker
from actors.workers.worker_config import worker_config
from study.attacks import own_code
from study.attacks.external import python
from study.errors import StudyError
from study.models import Model, user_code
from study.reproducibility import user_files
from study.spec.loading import load
from study.spec.own_parts import with_code
from study.storage.run_folder import RunFolder
from tests.conftest import ROOT

MINE = '''"""A component, an attack and a network of a user's."""

from beside import BRIGHTER, build
from parts.layers import WIDTH
from study.attacks.kinds import View


class Brighter(View):
    name = "brighter"

    def make(self, image, given):
        return image + BRIGHTER


def attack(models, images, labels, goal, generator):
    return (images + BRIGHTER / 255).clamp(0, 1)


def network():
    return build(WIDTH)
'''
BESIDE = """import torch
from torch import nn

BRIGHTER = 5


def build(width):
    made = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1000))
    with torch.no_grad():
        for number, one in enumerate(made.parameters()):
            one.copy_(torch.linspace(-1, 1 + number, one.numel()).view_as(one))
    return made
"""  # noqa: E501 (digests stand on it)
FILES = {
    "mine.py": MINE,
    "beside.py": BESIDE,
    "parts/__init__.py": "",
    "parts/layers.py": "from . import numbers\n\nWIDTH = numbers.WIDTH\n",
    "parts/numbers.py": "WIDTH = 4\n",
}
INPUT = {"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
SPEC = {
    "study": "travel",
    "seed": 3,
    "images": {"sample": "foolbox", "size": 32, "keep": "all", "count": 4},
    "models": {
        "mine": {"network": "python:mine.py:network", **INPUT},
        "other": {"network": "timm:test_resnet", "weights": "random:2", "size": 32},
    },
    "attacks": {
        "view": {"views": [{"python": "mine.py:Brighter"}], "step": "sign", "steps": 2, "epsilon": 8},
        "whole": {"external": "python:mine.py:attack", "epsilon": 8},
    },
    "experiments": {"all": {"attacks": ["view", "whole"], "sources": {"each": ["mine"]}}},
    "numerics": {"batch": 2, "threads": 1},
    "run": {"shard": 4, "actors": 1, "flush_seconds": 0},
}
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
IDS, LABELS = tuple("abcd"), (1, 2, 3, 4)

ELSEWHERE = """
import pickle, sys

sys.path.insert(0, {root!r})
from tests.actors.workers.test_own_files import answers

with open("config.pickle", "rb") as file:
    config, attacks = pickle.load(file)
with open("answers.pickle", "wb") as file:
    pickle.dump(answers(config, attacks), file)
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The user's folder, with a spec, as the working folder."""
    folder = tmp_path / "users"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    monkeypatch.chdir(folder)
    return folder


def answers(config, attacks):
    """The adversarial images of each attack, the network's digest, and its predictions."""
    worker = Worker(config, "cpu")
    found = {}
    for name, attack in attacks.items():
        job = CraftJob(attack, "untargeted", ("craft",), IDS, LABELS, LABELS, None)
        found[name] = worker.craft(ModelRequest({"mine": None}), job, IMAGES)[1]
    result = worker.predict(ModelRequest({"mine": None}), PredictJob(("mine",), 2, IDS), IMAGES).targets[0]
    return found, result.model["digest"], result.answers.top5


def test_text_and_not_the_folder_reaches_a_worker(written, tmp_path, monkeypatch):
    """In another process, whose machine does not have the files: the same pixels, digest and predictions."""
    file, code = with_code(load(Path("spec.yaml")), allow_code=True)
    config = worker_config(file.spec, RunFolder(tmp_path / "run"), allow_code=True, code=code)
    here, digest, labels = answers(config, file.spec.attacks)
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(written)
    (tmp_path / "config.pickle").write_bytes(pickle.dumps((config, file.spec.attacks)))
    text = ELSEWHERE.format(root=str(ROOT))
    subprocess.run([sys.executable, "-c", text], cwd=tmp_path, check=True, timeout=120)
    found, its_digest, its_labels = pickle.loads((tmp_path / "answers.pickle").read_bytes())
    assert its_digest == digest
    np.testing.assert_array_equal(its_labels, labels)
    for name in SPEC["attacks"]:
        np.testing.assert_array_equal(found[name], here[name])
        assert (here[name] != IMAGES).any()


def test_an_edited_file_changes_no_worker(written, tmp_path):
    """A launch runs the text that it has read, whatever an editor does meanwhile."""
    file, code = with_code(load(Path("spec.yaml")), allow_code=True)
    config = worker_config(file.spec, RunFolder(tmp_path / "run"), allow_code=True, code=code)
    before = answers(config, file.spec.attacks)
    (written / "beside.py").write_text("raise SystemExit\n")
    after = answers(config, file.spec.attacks)
    assert after[1] == before[1]
    np.testing.assert_array_equal(after[0]["whole"], before[0]["whole"])


def test_an_error_names_the_file_where_the_user_has_it(written, tmp_path):
    (written / "beside.py").write_text("BRIGHTER = 5\n\n\ndef build(width):\n    return None.layers\n")
    file, code = with_code(load(Path("spec.yaml")), allow_code=True)
    shutil.rmtree(written)
    with user_files.carried(code.functions), pytest.raises(AttributeError) as caught:
        user_code.build(file.spec.models["mine"], allowed=True)
    assert user_files.line_in(caught.value, code.functions) == f"{written}/beside.py, line 5: return None.layers"


def test_nothing_is_read_without_permission(written):
    experiments = {"all": {"attacks": ["whole"], "sources": {"each": ["mine"]}}}
    spec = SPEC | {"attacks": {"whole": SPEC["attacks"]["whole"]}, "experiments": experiments}
    (written / "spec.yaml").write_text(yaml.safe_dump(spec))
    assert with_code(load(Path("spec.yaml")), allow_code=False)[1].functions == ()


def test_a_module_does_not_travel(written, monkeypatch):
    monkeypatch.syspath_prepend(str(written))
    assert user_files.read("mine:network", "python:mine:network").texts == {}
    with pytest.raises(StudyError, match="no module 'nothing_of_the_kind'"):
        user_files.read("nothing_of_the_kind:network", "python:nothing_of_the_kind:network")


def test_digests_in_ids_are_those_of_folders_that_exist(written, monkeypatch):
    """To change one is to compute every attack run and every model of users' own code again."""
    own = "25c16ea38fd8d732b55f99efc0804bc0b894c867720b100df103ffa6c3bc317d"
    beside = "1ffb07634a192417cfa55b2e848ee167351b9cfb883566bd9dcac129fcbfdd5b"
    parts = [
        ("parts/layers.py", "78a61228fe2f174bfa4d8d9fdafe8fbc1901b188d5a3c8f7b9ea431e7f26f0bf"),
        ("parts/numbers.py", "6ac372609ba3f5691878c18b8d4ad0b223104f8eafeca83b16777b41935676fe"),
    ]
    user_files.forget()
    monkeypatch.syspath_prepend(str(written))
    for place in ("mine.py", "mine"):
        found = own_code.read(f"{place}:Brighter", "here").digest
        assert found == "5eea2eb8f07c7c56b6d20af11dc840031de014a74fd6207a9a9ce0200c827779"
        assert python.version(f"{place}:attack") == "cb803312019b6a7d"
    module = own_code.read("parts.layers:Any", "here").digest
    assert module == "1c441233a6f4489cdc69a11da8653b4bcc169446dbbbc45d47100f7f0016ba32"
    assert "parts" not in sys.modules, "a module is found without importing its package"
    for name, arguments, text, others in [
        ("network", {}, own, [("beside.py", beside), *parts]),
        ("build", {"width": 4}, beside, [("mine.py", own), *parts]),
    ]:
        model = Model.model_validate({"network": f"python:mine.py:{name}", "arguments": arguments, **INPUT})
        identity = user_code.build(model, allowed=True)[1]
        assert identity == f"python:{name} {text} {arguments} beside {others}"


def test_a_launch_whose_workers_lack_the_files(written, tmp_path, monkeypatch, capsys):
    """On real Ray: the folder is gone before the workers start, and nothing is repaired."""
    from rich.console import Console

    from actors.backends.ray_backend import RayBackend

    options = LaunchOptions(Path("spec.yaml"), tmp_path / "run", allow_code=True)

    def start():
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(written)
        return RayBackend(None)

    assert launch(options, Console(), start) == 0
    log = (tmp_path / "run" / "study.log").read_text()
    assert "repaired" not in log + capsys.readouterr().out
