"""Names of other libraries: every answer exists, and messages give it."""

from __future__ import annotations

import pytest
import torchattack
import torchattacks
import yaml

import study
from study.attacks import presets
from study.attacks.external.spec import External
from study.attacks.recipe import Attack
from study.errors import StudyError
from study.images.image_sets import ImageSet
from study.models.reference import Model
from study.reproducibility.numerics import Numerics
from study.spec import other_names
from study.spec.loading import load
from study.spec.other_names import plain
from study.spec.run_options import RunOptions
from study.spec.schema import Experiment, Spec

FILE = yaml.safe_load(other_names._FILE.read_text(encoding="utf-8"))
SECTIONS = {
    "attacks": Attack, "experiments": Experiment, "images": ImageSet, "models": Model, "numerics": Numerics,
    "run": RunOptions, "spec": Spec,
}  # fmt: skip


def test_every_preset_exists():
    own = {plain(name): name for name in presets.known()}
    for entry in FILE["presets"]:
        assert presets.preset(entry["ours"]) is not None, entry
        for name in entry["names"]:
            assert own.get(plain(name), entry["ours"]) == entry["ours"], f"{name} is a preset of its own"
            assert other_names.preset(name).ours == entry["ours"], f"{name} has two answers"
            assert other_names.external(name) is None, name


def test_every_attack_of_another_library_exists():
    libraries = {
        "torchattacks": set(torchattacks.__all__),
        "torchattack": set(dir(torchattack)),
        "transferattack": None,
    }
    assert set(FILE["elsewhere"]) == set(libraries)
    for library, attacks in FILE["elsewhere"].items():
        for first, *_ in attacks:
            assert External(external=f"{library}:{first}").attack == first
            known = libraries[library]
            assert known is None or first in known, f"{library} has no {first}"


def test_every_key_exists():
    assert set(FILE["keys"]) == set(SECTIONS)
    for section, entries in FILE["keys"].items():
        fields = {*SECTIONS[section].model_fields, *(["epsilon"] if section == "attacks" else [])}
        names = [name for entry in entries for name in {plain(one) for one in entry["names"]}]
        assert len(names) == len(set(names)), section
        for entry in entries:
            written = yaml.safe_load(entry["ours"])
            key = written if isinstance(written, str) else next(iter(written))
            assert key in fields, entry
            assert not fields & set(entry["names"]), f"{entry} answers for a key that there is"
            if section == "attacks" and not isinstance(written, str):
                Attack.model_validate(presets.keys_of("mi", written))


@pytest.mark.parametrize("name", presets.known())
def test_case_and_punctuation_of_our_own_names(name):
    assert other_names.preset(name.upper()).ours == name


LIBRARIES = {
    "FGSM": "fgsm", "BIM": "bim", "PGD": "pgd", "MIFGSM": "mi", "NIFGSM": "ni", "SINIFGSM": "ni+si", "VMIFGSM": "vmi",
    "VNIFGSM": "vni", "DIFGSM": "di", "TIFGSM": "ti", "PIFGSM": "patch-wise", "MI-FGSM": "mi", "DI2-FGSM": "di",
    "DIM": "mi+di", "TIM": "mi+ti", "SIM": "mi+si", "VMI-FGSM": "vmi", "Admix": "admix", "ifgsm": "igsm", "SSM": "ssa",
    "DIM+TIM": "mi+di+ti",
    "MI+DI": "mi+di", "MIFGSM+TI-FGSM": "mi+ti", "emifgsm": "emi", "DeCowA": "decowa", "nonsense": None,
    "smifgrm": "smi-fgrm", "vaifgsm": "va-i", "logit_margin": "logit-margin", "potrip": "po-trip", "": None, "+": None,
}  # fmt: skip
"""Names in torchattacks, TransferAttack and papers."""


@pytest.mark.parametrize(("theirs", "ours"), LIBRARIES.items())
def test_names_of_libraries(theirs, ours):
    found = other_names.preset(theirs)
    assert (found.ours if found else None) == ours


def launched(spec_file, attacks, used):
    return load(spec_file({"attacks": attacks, "experiments": {"e": {"attacks": used, "sources": "each"}}}))


@pytest.mark.parametrize(("attacks", "used", "expected"), [
    ({"x": {"preset": "MIFGSM"}}, ["x"], ["no preset named 'MIFGSM': it is called `mi` here", "attacks.x.preset",
     "line", "write `mi`", "`study attacks mi` prints its numbers"]),
    ({"DI2-FGSM": {}}, ["DI2-FGSM"], ["it is called `di` here (TransferAttack's DIM is `mi+di`)",
     "write `DI2-FGSM: {preset: di}`"]),
    ({}, ["PGD"], ["there is no attack named 'PGD': it is called `pgd` here", "experiments.e.attacks[0]"]),
    ({"x": {"preset": "ila", "first": "MIFGSM"}}, ["x"], ["no preset named 'MIFGSM': it is called `mi` here"]),
    ({"x": {"preset": "CW"}}, ["x"], ["no preset named 'CW', but another library has", 'external: "torchattacks:CW"']),
    ({"mine{x}": {}}, ["mine{x}"], ["'mine{x}' is not the name of a preset", "write `mine{x}: {preset: …}`"]),
    ({"x": {"preset": "mi", "eps": 8}}, ["x"], ["no key 'eps' here: it is called `epsilon` (in pixel values 0..255",
     "attacks.x.eps", "epsilon (the nearest)"]),
    ({"x": {"preset": "mi", "budget": {"eps": 8}}}, ["x"], ["it is called `epsilon`", "attacks.x.budget.eps"]),
    ({"x": {"preset": "mi", "alpha": 2}}, ["x"], ["it is called `step_size`"]),
    ({"x": {"preset": "mi", "num_iter": 2}}, ["x"], ["it is called `steps`"]),
    ({"x": {"preset": "mi", "mu": 1}}, ["x"], ["it is called `momentum`"]),
    ({"x": {"preset": "mi", "diversity_prob": 1}}, ["x"], ["write `diversity: {probability: 0.5}`"]),
    ({"x": {"preset": "mi", "variance": {"num_neighbor": 5}}}, ["x"], ["no key 'num_neighbor' here\n", "samples"]),
])  # fmt: skip
def test_messages_of_a_spec(spec_file, attacks, used, expected):
    with pytest.raises(StudyError) as caught:
        launched(spec_file, attacks, used)
    for part in expected:
        assert part in str(caught.value)


@pytest.mark.parametrize(("changes", "expected"), [
    ({"images": {"sample": "foolbox", "size": 48, "num_images": 4}}, "it is called `count`"),
    ({"numerics": {"batch_size": 4}}, "it is called `batch`"),
    ({"run": {"num_workers": 4}}, "it is called `actors`"),
    ({"experiments": {"e": {"attacks": ["mi"], "sources": "each", "targeted": True}}}, "write `goal: targeted`"),
    ({"experiments": {"e": {"attacks": ["mi"], "surrogates": "each"}}}, "it is called `sources`"),
    ({"models": {"a": {"arch": "resnet50"}}}, "it is called `network`"),
    ({"dataset": "imagenet"}, "it is called `images`"),
])  # fmt: skip
def test_messages_of_other_sections(spec_file, changes, expected):
    with pytest.raises(StudyError) as caught:
        load(spec_file(changes))
    assert expected in str(caught.value)


@pytest.mark.parametrize(("call", "expected"), [
    (lambda: study.attack("MI-FGSM"), "it is called `mi` here"),
    (lambda: study.attack("AutoAttack"), 'external: "torchattacks:AutoAttack"'),
    (lambda: study.attack("mi", eps=8), "it is called `epsilon` (in pixel values 0..255: 8/255 is 8)"),
    (lambda: study.attack("mi", iterations=8), "it is called `steps`"),
    (lambda: study.attack({"preset": "MIFGSM"}), "it is called `mi` here"),
])  # fmt: skip
def test_messages_of_the_door(call, expected):
    with pytest.raises(StudyError) as caught:
        call()
    assert expected in str(caught.value)
