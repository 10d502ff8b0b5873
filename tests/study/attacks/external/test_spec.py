"""Names and arguments of somebody else's attacks: what is accepted, what is said otherwise, and what an id holds."""

from __future__ import annotations

import importlib.metadata

import pytest
from pydantic import ValidationError

from study.attacks.external import libraries
from study.attacks.external.run import check_external
from study.attacks.external.spec import External
from study.errors import StudyError


def check(name, goal="untargeted", *, sources=1, epsilon=8.0, **arguments):
    check_external(External(external=name, arguments=arguments), [goal], sources, epsilon=epsilon)


@pytest.mark.parametrize("given", [
    {"external": "torchattack"},
    {"external": "cleverhans:PGD"},
    {"external": "torchattack:"},
    {"external": "python:mine.py"},
    {"python": "mine.py"},
    {"external": "torchattack:BSR", "python": "mine.py:attack"},
    {"arguments": {}},
    {"external": "torchattack:BSR", "steps": 3},
])  # fmt: skip
def test_no_spec(given):
    with pytest.raises(ValidationError):
        External.model_validate(given)


def test_short_forms():
    short = External.model_validate({"python": "a/mine.py:attack", "arguments": {"step": "2/255", "name": "2/256"}})
    assert (short.library, short.attack) == ("python", "a/mine.py:attack")
    assert short.arguments == {"step": 2 / 255, "name": "2/256"}
    assert External.model_validate(short.model_dump()) == short


@pytest.mark.parametrize(("name", "changes", "words"), [
    ("torchattack:BRS", {}, ["no attack 'BRS' in torchattack", "BSR (the nearest)", "VNIFGSM"]),
    ("torchattacks:MultiAttack", {}, ["no attack 'MultiAttack' in torchattacks", "PIFGSM"]),
    ("foolbox:LinfBasicIterative", {}, ["LinfBasicIterativeAttack (the nearest)"]),
    ("torchattack:BSR", {"num_scales": 3}, ["takes no argument 'num_scales'", "num_scale (the nearest)"]),
    ("torchattacks:PIFGSM", {"eps": 0.1}, ["takes no argument 'eps'", "max_epsilon"]),
    ("foolbox:PGD", {"step": 3}, ["takes no argument 'step'", "steps (the nearest)", "random_start"]),
    ("foolbox:PGD", {"steps": 3, "sources": 2}, ["attacks one model, and this attack run has 2 sources"]),
    ("torchattack:BSR", {"targeted": True}, ["'targeted' of torchattack:BSR is set by the study itself"]),
    ("torchattack:BSR", {"sources": 2}, ["attacks one model", "sources: each"]),
    ("torchattacks:PIFGSM", {"sources": 3}, ["attacks one model, and this attack run has 3 sources"]),
    ("torchattack:FIA", {"goal": "targeted"}, ["torchattack:FIA has no targeted form"]),
    ("torchattacks:PIFGSM", {"goal": "targeted"}, ["has no targeted form"]),
    ("foolbox:FGSM", {"goal": "targeted"}, ["has no targeted form"]),
    ("torchattack:PGDL2", {}, ["`eps` of torchattack:PGDL2 is not an L-infinity norm"]),
    ("torchattacks:PGDL2", {}, ["not an L-infinity norm"]),
    ("torchattacks:APGD", {"norm": "L2"}, ["not an L-infinity norm"]),
    ("foolbox:L2PGD", {}, ["needs a budget in its norm, L2"]),
    ("foolbox:PGD", {"epsilon": None}, ["needs a budget in its norm, L"]),
    ("foolbox:InversionAttack", {}, ["needs a distance", "linf"]),
    ("foolbox:InversionAttack", {"distance": "l3"}, ["has no distance 'l3'"]),
    ("foolbox:DatasetAttack", {"distance": 1}, ["has no distance 1"]),
    ("foolbox:SpatialAttack", {}, ["foolbox:SpatialAttack has no distance in foolbox 3", "and cannot run here"]),
    ("foolbox:PGD", {"steps": "zz", "goal": "targeted"}, ["foolbox:PGD failed: TypeError", "foolbox/attacks/"]),
    *(("torchattacks:TIFGSM", {"kernel_name": "zz", "goal": goal}, [
        "torchattacks:TIFGSM failed: NotImplementedError", "torchattacks/attacks/tifgsm.py, line",
        "correct the attack's arguments"]) for goal in ("untargeted", "targeted")),
    ("torchattacks:TIFGSM", {"len_kernel": "zz"}, ["torchattacks:TIFGSM failed: TypeError: 'str' object"]),
])  # fmt: skip
def test_what_is_said_before_any_work(name, changes, words):
    with pytest.raises(StudyError) as caught:
        check(name, **changes)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(("name", "changes"), [
    ("torchattack:PGDL2", {"eps": 1.0}),
    ("torchattack:PGDL2", {"epsilon": None}),
    ("torchattack:BSR", {"goal": "targeted"}),
    ("torchattack:DeepFool", {}),
    ("torchattacks:APGD", {}),
    ("torchattacks:MIFGSM", {"goal": "targeted"}),
    ("foolbox:L2DeepFoolAttack", {}),
    ("foolbox:PGD", {"goal": "targeted"}),
    *((f"torchattacks:{name}", {"epsilon": None}) for name in ("TIFGSM", "AutoAttack", "PGDRSL2", "Square", "JSMA")),
])  # fmt: skip
def test_what_is_accepted(name, changes):
    check(name, **changes)


def test_lists_of_attacks():
    assert {"BSR", "FIA", "MIFGSM"} <= set(libraries.adapter("torchattack").attacks())
    assert "LGV" not in libraries.adapter("torchattacks").attacks()
    found = libraries.adapter("foolbox").attacks()
    assert {"PGD", "LinfBasicIterativeAttack"} <= set(found)
    assert "Attack" not in found


@pytest.mark.parametrize("library", ["torchattack", "torchattacks", "foolbox"])
def test_a_missing_package(monkeypatch, library):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(StudyError, match=f"the package {library} is not installed") as caught:
        check(f"{library}:PGD")
    assert f"pip install {library}==" in str(caught.value)


def test_identity():
    found = External(external="torchattack:BSR", arguments={"steps": 10.0, "alpha": "2/255"}).identity()
    assert found == {
        "library": "torchattack",
        "version": importlib.metadata.version("torchattack"),
        "attack": "BSR",
        "arguments": {"alpha": 2 / 255, "steps": 10},
    }


def test_identity_of_a_file(tmp_path):
    """The text of the file and of what it imports beside it count; its place and name do not, and it does not run."""

    def write(folder, text="import beside\nraise SystemExit\n", beside="A = 1\n", name="mine.py"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text(text)
        (tmp_path / folder / "beside.py").write_text(beside)
        return External.model_validate({"python": f"{tmp_path / folder / name}:attack"}).identity()

    first = write("a")
    assert first["attack"] == "attack"
    assert write("b") == write("c", name="other.py") == first
    assert write("b", beside="A = 2\n") != first
    assert write("b", text="import beside\n") != first
    with pytest.raises(StudyError, match="does not exist"):
        External.model_validate({"python": f"{tmp_path}/no.py:attack"}).identity()
