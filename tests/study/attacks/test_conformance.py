"""The conformance test: parts written outside the project pass it, and each planted fault is found."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent / "own_parts"

PARTS = {
    "roll.py:Roll": "view",
    "memory.py:Memory": "point",
    "features.py:Away": "objective",
    "backward.py:Damped": "backward",
    "inner.py:OneByOne": "ensemble",
    "program.py:Restarts": "program",
    "ball.py:Sum": "budget",
    "ball.py:Blurred": "budget",
}

HEAD = """
from typing import ClassVar
import contextlib, torch
from study.attacks.kinds import View, Point, Program, BackwardChange, BudgetRule

"""

FAULTS = {
    "another seed of the global generators": """
class Faulty(View):
    name: ClassVar[str] = "faulty"
    def make(self, image, given):
        return image + 8 * torch.randn_like(image)
""",
    "with other images in the batch": """
class Faulty(View):
    name: ClassVar[str] = "faulty"
    def make(self, image, given):
        return image - 2 * image.mean(0, keepdim=True)
""",
    "is not finite": """
class Faulty(View):
    name: ClassVar[str] = "faulty"
    def make(self, image, given):
        return (image - image).sqrt() + image
""",
    "it takes 6 gradients an image in 3 steps, but declares 3": """
class Faulty(Point):
    name: ClassVar[str] = "faulty"
    def gradient(self, delta, step, inner, state):
        return inner(delta) + step.gradient(step.origin, 1)
""",
    "it moves a pixel by 20, but epsilon is 8": """
class Faulty(Program):
    name: ClassVar[str] = "faulty"
    def run(self, given):
        return [20 * given.gradient(given.origin).sign()]
    def cost(self, steps, sources, views):
        return 1
""",
    "`measure` must not fall if a perturbation is multiplied by a number above 1": """
class Faulty(BudgetRule):
    name: ClassVar[str] = "faulty"
    def measure(self, delta, origin):
        size = delta.abs().amax((1, 2, 3))
        return torch.where(size > 5, size / 2, size)
""",
    "it projects onto a size of": """
class Faulty(BudgetRule):
    name: ClassVar[str] = "faulty"
    def measure(self, delta, origin):
        return delta.abs().amax((1, 2, 3))
    def project(self, delta, origin, radius):
        return delta.clamp(-2 * radius.max(), 2 * radius.max())
""",
    "it leaves a change in": """
class Faulty(BackwardChange):
    name: ClassVar[str] = "faulty"
    @contextlib.contextmanager
    def applied(self, models, draws):
        for model in models.values():
            next(model.network.children()).register_forward_hook(lambda *_: None)
        yield
""",
}


@pytest.mark.parametrize("reference", PARTS)
def test_parts_from_outside_conform(door, monkeypatch, reference):
    monkeypatch.chdir(HERE)
    assert len((HERE / reference.split(":")[0]).read_text().splitlines()) <= 60
    status, printed, error = door("attacks", "check", reference)
    assert status == 0, printed + error
    assert f"of the kind '{PARTS[reference]}'" in printed
    assert "fault" not in printed


@pytest.mark.parametrize("said", FAULTS)
def test_each_fault_is_found(door, tmp_path, monkeypatch, said):
    (tmp_path / "faulty.py").write_text(HEAD + FAULTS[said])
    monkeypatch.chdir(tmp_path)
    status, printed, error = door("attacks", "check", "faulty.py:Faulty")
    assert status == 1, printed + error
    (line,) = [one for one in printed.splitlines() if "  fault  " in one]
    assert said in line


@pytest.mark.parametrize("name", ["diversity", "admix", "variance", "kernel", "adam", "logit", "summed-updates"])
def test_the_projects_own_components_conform(door, name):
    status, printed, error = door("attacks", "check", name)
    assert status == 0, printed + error


def test_what_does_not_apply_to_the_network_is_no_fault_of_the_gradients(door):
    status, printed, error = door("attacks", "check", "pna")
    assert status == 1, printed + error
    (line,) = [one for one in printed.splitlines() if "  fault  " in one]
    assert line.strip() == "fault  it runs: pna does not apply to this ResNet: it has no attention"


def test_gradients_that_are_not_finite_are_a_fault_of_the_gradients(door, tmp_path, monkeypatch):
    (tmp_path / "faulty.py").write_text(HEAD + FAULTS["is not finite"])
    monkeypatch.chdir(tmp_path)
    _, printed, _ = door("attacks", "check", "faulty.py:Faulty")
    (line,) = [one for one in printed.splitlines() if "  fault  " in one]
    images = ", ".join(f"image{number}" for number in range(4))
    assert line.strip() == f"fault  gradients are finite: the gradient of {images} is not finite"


def test_what_cannot_be_checked_is_said(door, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("import study\n\nraise ValueError('no')\n")
    (tmp_path / "none.py").write_text("class Other:\n    pass\n")
    for reference, said in {
        "broken.py:A": "broken.py, line 3",
        "none.py:Other": "has no component 'Other'",
        "absent.py:A": "does not exist",
        "diversty": "diversity (the nearest)",
    }.items():
        status, printed, error = door("attacks", "check", reference)
        assert status == 2
        assert said in error
        assert "Traceback" not in error + printed
    status, _, error = door("attacks", "check", "diversity", "--set", "probability=2")
    assert status == 2
