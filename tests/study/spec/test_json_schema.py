"""The schema of specs: shipped specs are such, broken ones are not, and the files in docs/ are what the code says."""

from __future__ import annotations

import re

import jsonschema
import pytest
import yaml

from study.commands.init import InitOptions, write_spec
from study.commands.init import starter as starter_of
from study.defences.transforms import Transforms
from study.errors import StudyError
from study.spec import json_schema, reference
from study.spec.loading import load
from tests.conftest import ROOT, TINY
from tests.test_malformed import WHOLE

SPECS = sorted((ROOT / "specs").rglob("*.yaml"))
VALIDATOR = jsonschema.Draft202012Validator(json_schema.spec_schema())


def test_it_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(json_schema.spec_schema())


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_shipped_specs_are_specs(path):
    assert not [one.message for one in VALIDATOR.iter_errors(yaml.safe_load(path.read_text()))]
    named = re.search(r"# yaml-language-server: \$schema=(\S+)", path.read_text().splitlines()[0])
    assert named, "the first line names the schema"
    assert (path.parent / named[1]).resolve() == ROOT / "docs" / "spec.schema.json"


@pytest.mark.parametrize("data", [yaml.safe_load(TINY), WHOLE], ids=["tiny", "whole"])
def test_short_ways_of_writing_are_in_it(data):
    assert not [one.message for one in VALIDATOR.iter_errors(data)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sead", 1),
        ("seed", "1"),
        ("images", {"sampel": "foolbox"}),
        ("images", {"sample": "foolbox", "targets": "some"}),
        ("models", {"a": {"network": "x", "transform": {"jpg": 1}}}),
        ("experiments", {"x": {"attacks": ["mi"], "sources": "every"}}),
        ("experiments", {"x": {"attacks": ["mi"], "sources": "each", "goal": "aimed"}}),
        ("attacks", {"mi": {"preset": "mii"}}),
        ("attacks", {"mi": {"epsilom": 1}}),
        ("run", {"actors": "some"}),
    ],
)
def test_what_is_no_spec(key, value):
    assert list(VALIDATOR.iter_errors(WHOLE | {key: value}))


def test_it_has_every_transform():
    with pytest.raises(ValueError, match="is not a transform") as refused:
        Transforms.model_validate({"nothing": 1})
    known = refused.value.errors()[0]["ctx"]["accepted"].replace(" (the nearest)", "").split(", ")
    listed = json_schema.spec_schema()["$defs"]["Transforms"]["anyOf"][0]["properties"]
    assert set(listed) == set(known)


@pytest.mark.parametrize("path", reference.generated(), ids=lambda path: path.name)
def test_the_files_are_up_to_date(path):
    assert path.read_text() == reference.generated()[path], "python -m study.spec.reference"


def test_a_first_spec(tmp_path):
    said: list[str] = []
    path = tmp_path / "first.yaml"
    write_spec(
        path,
        InitOptions(models=("resnet50", "timm:vgg16.tv_in1k"), attacks=("mi+di", "fg"), targeted=True),
        said.append,
        None,
    )
    spec = load(path).spec
    assert list(spec.models) == ["resnet50", "vgg16"]
    assert spec.experiments["single"].goal == ("untargeted", "targeted")
    assert "optimization" in spec.attacks, "fg is matched to it"
    assert not list(VALIDATOR.iter_errors(yaml.safe_load(path.read_text())))
    with pytest.raises(StudyError, match="exists already"):
        write_spec(path, InitOptions(), said.append, None)
    write_spec(
        path, InitOptions(force=True), said.append, lambda question, usual: "asked" if "name" in question else ""
    )
    assert load(path).spec.study == "asked"
    for wish, part in (
        (InitOptions(attacks=("mii",)), "mi (the nearest)"),
        (InitOptions(models=("resnet5",)), "resnet50"),
    ):
        with pytest.raises(StudyError) as refused:
            write_spec(tmp_path / "x.yaml", wish, said.append, None)
        assert part in str(refused.value)
    assert "folder: '#odd: path'" in starter_of(InitOptions("s", "#odd: path", 2, ("resnet50",), ("mi",)))


@pytest.mark.parametrize("place", reference.sections())
def test_the_reference_explains_every_key(place):
    """In a note, in the docstring's list, or in its sentences. A note's example is a value that the schema accepts."""
    model, part = reference.sections()[place]
    noted, keys = reference.notes(place), reference.keys_of(part)
    assert noted.keys() <= keys.keys(), "study/spec/key_notes.yaml explains a key that does not exist"
    for key, value in keys.items():
        meaning, *example = noted.get(key, ("",))
        assert meaning or f"`{key}`" in (model.__doc__ or "") or value.get("description"), key
        for one in example:
            within = VALIDATOR.evolve(schema={**value, "$defs": VALIDATOR.schema["$defs"]})
            assert not [error.message for error in within.iter_errors(one)], key
