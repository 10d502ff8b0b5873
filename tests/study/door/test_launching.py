"""`study.launch`: every kind of spec, what it returns, and how it fails; in this process, without Ray."""

from __future__ import annotations

import signal
import sys
from importlib import metadata

import pytest
import torch
import yaml

import study
from actors.launch.python_door import launch_order
from study.door import launching
from tests.study.conftest import SMALL


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_MODE", raising=False)


def small(**changes) -> dict:
    return yaml.safe_load(SMALL) | changes


def test_the_entry_point_is_the_launcher():
    """`study` finds it by the metadata of the installed distribution, which pyproject.toml makes."""
    found = metadata.entry_points(group=launching.GROUP, name=launching.NAME)
    # An environment may still hold the metadata of an install under an earlier name of the project.
    assert {one.load() for one in found} == {launch_order}


def test_a_path_a_dict_and_a_spec_give_the_same_rows(tmp_path, capsys):
    (tmp_path / "small.yaml").write_text(SMALL)
    by_path = study.launch("small.yaml", inline=True, quiet=True)
    assert by_path.folder == "runs/small"
    assert capsys.readouterr().out.startswith("complete in ")
    by_dict = study.launch(small(), output=tmp_path / "dict", inline=True)
    printed = capsys.readouterr().out
    assert "this process" in printed
    assert "all, untargeted" in printed
    by_spec = study.launch(by_dict.spec, output=str(tmp_path / "spec"), inline=True, quiet=True)
    assert by_path.rows.equals(by_dict.rows)
    assert by_path.rows.equals(by_spec.rows)
    assert by_path.rows.height == 2 * 2


def test_torch_is_as_it_was(tmp_path):
    torch.set_num_threads(2)
    torch.backends.cudnn.deterministic = False
    try:
        study.launch(small(), inline=True, quiet=True)
        assert torch.get_num_threads() == 2
        assert not torch.backends.cudnn.deterministic
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("given", "more", "what", "where"),
    [
        (3, {}, "a spec cannot be a int", "study.launch(spec)"),
        ("missing.yaml", {}, "missing.yaml cannot be read", "missing.yaml"),
        ({"study": "x"}, {}, "images", "the spec given to study.launch"),
        (small(), {"address": "head:6379"}, "inline=True runs everything in this process", None),
        (small(), {"output": "gs://bucket/run"}, "gs:/bucket/run cannot hold a run", None),
        (small(), {"wandb": "sometimes"}, "W&B has no mode 'sometimes'", "--wandb"),
    ],
)
def test_bad_input(given, more, what, where):
    with pytest.raises(study.StudyError) as caught:
        study.launch(given, inline=True, **more)
    assert what in str(caught.value)
    assert where is None or caught.value.where.startswith(where)


BROKEN = """
import torch
from torch import nn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 1000))

    def forward(self, images):
        # Finite forwards, and infinity minus infinity backwards.
        nothing = (images - images).sqrt().sum((1, 2, 3))
        return (images.mean((1, 2, 3)) + nothing)[:, None] * self.weight


def make():
    return Network()
"""


def test_failed_units_raise_and_the_others_are_kept(tmp_path):
    (tmp_path / "mine.py").write_text(BROKEN)
    broken = {"network": "python:mine.py:make", "size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    spec = small(experiments={"all": {"attacks": ["fgsm"], "sources": "each", "targets": ["b"]}})
    spec["models"]["broken"] = broken
    with pytest.raises(study.StudyError, match="allow"):
        study.launch(spec, inline=True, quiet=True)
    with pytest.raises(study.StudyError) as caught:
        study.launch(spec, inline=True, quiet=True, allow_code=True)
    assert caught.value.status == 1
    assert "2 failures; the first is broken.fgsm" in caught.value.what
    assert "not finite" in caught.value.what
    assert caught.value.where == "runs/small/failures.json"
    found = study.load("runs/small").matrix("all")
    assert found["sources"].to_list() == ["a", "b"]
    assert found["images"].to_list() == [2, 2]


def test_without_a_launcher(monkeypatch):
    monkeypatch.setattr(launching.metadata, "entry_points", lambda **_: ())
    with pytest.raises(study.StudyError) as caught:
        study.launch(small(), inline=True)
    assert "study.launchers: default" in caught.value.what
    assert "pip install" in caught.value.todo


def test_a_launcher_that_cannot_be_imported(monkeypatch):
    broken = metadata.EntryPoint("default", "actors.launch.no_such_module:run", launching.GROUP)
    monkeypatch.setattr(launching.metadata, "entry_points", lambda **_: (broken,))
    with pytest.raises(study.StudyError, match="no_such_module"):
        study.launch(small(), inline=True)


def test_a_package_of_our_name_comes_first(tmp_path, monkeypatch):
    """A folder `actors` beside a notebook, say."""
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "__init__.py").write_text("")
    monkeypatch.delitem(sys.modules, "actors")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(study.StudyError) as caught:
        study.launch(small(), inline=True)
    assert str(tmp_path / "actors" / "__init__.py") in caught.value.what
    assert "start in another folder" in caught.value.todo


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_signal_stops_and_the_same_call_goes_on(monkeypatch, number, kind):
    from actors.backends.in_process import InProcess

    whole = study.launch(small(), output="whole", inline=True, quiet=True)
    calls = []
    call = InProcess.call

    def send(self, actor, method, arguments, pixels):
        calls.append(method)
        if calls.count("craft") == 2:
            monkeypatch.setattr(InProcess, "call", call)
            signal.raise_signal(number)
        return call(self, actor, method, arguments, pixels)

    monkeypatch.setattr(InProcess, "call", send)
    before = signal.getsignal(number)
    with pytest.raises(kind):
        study.launch(small(), output="stopped", inline=True, quiet=True)
    assert signal.getsignal(number) is before
    assert study.load("stopped").rows.height < whole.rows.height
    assert study.launch(small(), output="stopped", inline=True, quiet=True).rows.equals(whole.rows)
