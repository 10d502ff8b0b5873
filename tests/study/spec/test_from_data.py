"""A spec as plain data is the spec of its file: same content, same errors, with the key in place of the line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from study.errors import StudyError
from study.spec import loading
from study.spec.loading import again, from_data, resolve
from study.spec.yaml_document import parse
from tests.conftest import TINY


def tiny(**changes):
    return yaml.safe_load(TINY) | changes


def test_it_is_the_spec_of_the_file(spec_file):
    assert from_data(tiny(), "mine").spec == loading.load(spec_file()).spec


def test_paths_tuples_and_numbers_of_numpy():
    plain = tiny(images={"folder": "clean", "size": 48, "count": 3})
    given = tiny(images={"folder": Path("clean"), "size": np.int64(48), "count": 3})
    given["attacks"]["optimization"]["steps"] = np.int32(3)
    given["attacks"]["summed"]["learning_rate"] = np.float32(8)
    given["experiments"]["ensembles"]["attacks"] = ("mi", "summed")
    assert from_data(given, "mine").spec == from_data(plain, "mine").spec


def test_environment_variables_are_expanded(monkeypatch):
    monkeypatch.setenv("CLEAN_IMAGES", "/data/clean")
    given = tiny(images={"folder": "${CLEAN_IMAGES}", "list": "${LISTED:-all.csv}", "size": 48})
    images = from_data(given, "mine").spec.images
    assert (images.folder, images.list) == ("/data/clean", "all.csv")


@pytest.mark.parametrize("text", ["016", "1:30", "no", "1e3", "null", "a: b", "# c", " é\n"])
def test_text_stays_text(text):
    assert from_data(tiny(tracking={"tags": [text]}), "mine").spec.tracking.tags == (text,)


@pytest.mark.parametrize(
    ("changes", "what", "where"),
    [
        ({"attacks": {"mi": {"epsilom": 8}}}, "no key 'epsilom'", "mine, attacks.mi.epsilom"),
        ({"seed": "x"}, "", "mine, seed"),
        ({"models": {"a": {"network": print}}}, "has type builtin_function_or_method", "mine, models.a.network"),
        ({"attacks": {1: {}}}, "a key must be text, but this is 1", "mine, attacks"),
        ({"images": {"folder": "${NOT_SET_ANYWHERE}"}}, "NOT_SET_ANYWHERE is not set", "mine"),
        ({"experiments": {"x": {"attacks": ["no"], "sources": "each"}}}, "no attack named 'no'", "mine, experiments.x"),
    ],
)
def test_errors_name_the_key(changes, what, where):
    with pytest.raises(StudyError) as caught:
        from_data(tiny(**changes), "mine")
    assert what in caught.value.what
    assert caught.value.where.startswith(where)
    assert "line" not in caught.value.where


def test_data_within_itself():
    given = tiny()
    given["attacks"]["mi"]["more"] = given
    with pytest.raises(StudyError, match="nested too deeply"):
        from_data(given, "mine")


def test_a_resolved_spec_is_checked_again():
    spec = resolve(parse(TINY, "tiny")).spec
    assert again(spec, "mine").spec == spec
    broken = spec.model_copy(update={"seeds": "x"})
    with pytest.raises(StudyError) as caught:
        again(broken, "mine")
    assert caught.value.where == "mine, seeds"
