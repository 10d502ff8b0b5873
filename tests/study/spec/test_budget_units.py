"""Lengths of at most 1 that say their unit: the spec that a launch records is accepted when it is launched again."""

from __future__ import annotations

import pytest
import yaml

from study.errors import StudyError
from study.spec.loading import load, read_resolved
from tests.conftest import TINY, run_here

SMALL = {
    "half": {"preset": "mi", "steps": 2, "epsilon": "0.5/255"},
    "several": {"preset": "fgsm", "epsilon": ["0.1/255", "0.9/255"]},
    "range": {"preset": "fgsm", "epsilon": {"from": "0.25/255", "to": "0.75/255", "by": "0.25/255"}},
    "norm": {"preset": "fgsm", "budget": {"l2": "5/255"}},
    "deviation": {"preset": "fgsm", "budget": {"rmsd": "0.3/255"}},
    "tiny": {"preset": "mi", "steps": 2, "epsilon": "0.00001/255"},
    "steps": {"preset": "mi", "steps": 2, "epsilon": 8, "step_size": "0.02/255"},
    "staged": {"preset": "ila", "epsilon": 8, "first": {"preset": "mi", "steps": 10, "epsilon": "0.125/255"}},
    "usual": {"preset": "mi", "steps": 2, "epsilon": 8},
    "own": {"preset": "mi", "steps": 2, "step_size": 1, "budget": {"rule": {"python": "own.py:Hue"}, "length": 0.02}},
}

OWN = """from study.attacks.components.budgets import L2Budget


class Hue(L2Budget):
    name = "hue"
"""


@pytest.mark.parametrize("name", SMALL)
def test_a_recorded_spec_is_accepted_again(name, spec_file, tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    spec = load(spec_file({"attacks": {name: SMALL[name]}, "experiments": _one(name)})).spec
    recorded = spec_file(spec.text(), "recorded.yaml")
    again = load(recorded).spec
    assert again == spec
    assert again.identity() == spec.identity()
    assert read_resolved(spec.text(), "recorded") == spec
    assert ("/255" in spec.text()) == (name not in ("usual", "own"))


def test_a_recorded_length_that_is_changed_to_a_number_is_refused(spec_file):
    text = load(spec_file({"attacks": {"half": SMALL["half"]}, "experiments": _one("half")})).spec.text()
    assert "epsilon: 0.5/255" in text
    with pytest.raises(StudyError, match=r"an epsilon of 0.03 moves no pixel"):
        load(spec_file(text.replace("epsilon: 0.5/255", "epsilon: 0.03"), "changed.yaml"))


def test_the_spec_of_a_run_folder_is_launched_again(spec_file, tmp_path):
    changes = {
        "images": {"sample": "foolbox", "size": 48, "keep": "all", "count": 2},
        "models": {"b": yaml.safe_load(TINY)["models"]["b"]},
        "attacks": {"half": SMALL["half"]},
        "experiments": _one("half"),
    }
    run = tmp_path / "run"
    assert run_here(spec_file(changes), run)[0] == 0
    status, printed = run_here(run / "spec.yaml", run)
    assert status == 0
    assert "already complete" in printed


def _one(attack: str) -> dict[str, object]:
    return {"one": {"attacks": [attack], "sources": ["b"]}}


@pytest.mark.parametrize(
    ("keys", "what", "todo"),
    [
        (
            {"epsilon": 0.00001},
            "an epsilon of 0.00001 moves no pixel",
            "write 0.00255/255 if 0.00001 is for images scaled to 0..1, or 0.00001/255 if it is in pixel values",
        ),
        (
            {"step_size": 0.0001},
            "a step size of 0.0001 in 10 steps moves no pixel",
            "write 0.0255/255 if 0.0001 is for images scaled to 0..1, or 0.0001/255 if it is in pixel values",
        ),
        (
            {"step_size": 0.001},
            "a step size of 0.001 in 10 steps moves no pixel",
            "write 0.255 if 0.001 is for images scaled to 0..1, or 0.001/255 if it is in pixel values",
        ),
        (
            {"budget": {"l2": 0.03}},
            "an L2 norm of 0.03 moves no pixel",
            "write 7.65/255 if 0.03 is for images scaled to 0..1, or 0.03/255 if it is in pixel values",
        ),
        (
            {"epsilon": 0.0314},
            "an epsilon of 0.0314 moves no pixel",
            "write 8 if 0.0314 is for images scaled to 0..1, or 0.0314/255 if it is in pixel values",
        ),
    ],
)
def test_what_the_message_advises_is_accepted(keys, what, todo, spec_file):
    def with_keys(given):
        return spec_file({"attacks": {"x": {"preset": "mi", "step_size": 0.9} | given}, "experiments": _one("x")})

    with pytest.raises(StudyError) as caught:
        load(with_keys(keys))
    assert caught.value.what.startswith(f"{what}: lengths are in pixel values")
    assert caught.value.todo == todo
    ((key, given),) = keys.items()
    for word in (todo.split()[1], todo.split(", or ")[1].split()[0]):
        # The message shows a number without quotes, which YAML reads as a number.
        length = yaml.safe_load(word)
        load(with_keys({key: {"l2": length} if isinstance(given, dict) else length}))
