"""Probes in a spec: what may be said, what is refused and how, and that the resolved spec reads back."""

from __future__ import annotations

import pytest
import yaml

from study.errors import StudyError
from study.geometry.spec import Probe
from study.spec.loading import resolve
from study.spec.yaml_document import parse
from tests.conftest import TINY

WHOLE = {
    "cosine": {"probe": "gradient-cosine", "smoothing": {"copies": [1, 4], "sigma": 15}, "models": ["a", "b"]},
    "plane": {"probe": "regions", "along": {"gradient_of": "a"}, "extent": 40, "points": 9, "images": 3},
    "aimed": {"probe": "regions", "along": {"attack": "igsm", "sources": ["b", "a"], "goal": "targeted"}},
    "both": {"probe": "regions", "along": {"gradient_of": ["a", "b"]}, "across": {"gradient_of": "c"}, "step": "sign"},
    "line": {"probe": "linearity", "along": {"gradient_of": "each"}, "distances": {"from": -20, "to": 20, "by": 5}},
    "parts": {"probe": "intervals", "along": "random", "distances": {"to": 0.3, "by": 0.1}},
}


def spec_of(geometry, **changes):
    text = yaml.safe_dump(yaml.safe_load(TINY) | {"geometry": geometry} | changes)
    return resolve(parse(text, "spec")).spec


def test_it_reads_back():
    spec = spec_of(WHOLE)
    assert resolve(parse(spec.text(), "resolved")).spec == spec
    assert "igsm" in spec.attacks
    assert spec.geometry["parts"].distances.levels == (0.0, 0.1, 0.2, 0.3)
    assert spec.geometry["plane"].across.random == 0
    assert spec.geometry["plane"].axis == (-40, -30, -20, -10, 0, 10, 20, 30, 40)
    assert spec.geometry["aimed"].targeted
    assert not spec.geometry["plane"].targeted
    assert spec.geometry["aimed"].along.models("c") == ("a", "b")
    assert spec.geometry["line"].along.models("c") == ("c",)
    assert spec.identity() != spec_of({}).identity()


def test_a_probe_writes_its_own_keys_alone():
    written = Probe.model_validate(WHOLE["parts"]).model_dump(mode="json")
    assert set(written) == {"probe", "models", "images", "along", "step", "distances"}


MODELS = yaml.safe_load(TINY)["models"]
LINE = {"probe": "linearity", "along": {"gradient_of": "a"}, "distances": {"to": 3, "by": 1}}


@pytest.mark.parametrize(
    ("probe", "said"),
    [
        ({"probe": "cosine"}, "'probe' cannot be 'cosine'"),
        ({"probe": "gradient-cosine", "extent": 3}, "a probe of gradient-cosine has no key `extent`"),
        ({"probe": "gradient-cosine", "extend": 3}, "there is no key 'extend' here"),
        ({"probe": "regions"}, "a probe of regions needs the key `along`"),
        (LINE | {"distances": None}, "a probe of linearity needs the key `distances`"),
        (LINE | {"distances": {"to": 3}}, "the key 'by' is missing"),
        (LINE | {"distances": {"to": -3, "by": 1}}, "distances must rise"),
        (LINE | {"along": {"gradient_of": "d"}}, "there is no model named 'd'"),
        (LINE | {"along": {"gradient_of": ["a", "each"]}}, "`each` is the probed model itself"),
        (LINE | {"along": {"attack": "mi"}}, "`attack` and `sources` need each other"),
        (LINE | {"along": {"attack": "mj", "sources": "a"}}, "there is no attack named 'mj'"),
        (LINE | {"along": {"attack": "fg", "sources": "a"}}, "'fg' cannot be the direction of a probe"),
        (LINE | {"along": {"goal": "targeted"}}, "a direction has exactly one of"),
        (LINE | {"along": {"random": 0, "gradient_of": "a"}}, "a direction has exactly one of"),
        (LINE | {"along": {"random": 1, "goal": "targeted"}}, "a random direction has no goal"),
        (LINE | {"models": ["e"]}, "there is no model named 'e'"),
        (LINE | {"models": ["jpeg"]}, "'jpeg' has a transform"),
        (LINE | {"images": 0}, "'images' cannot be 0"),
        ({"probe": "regions", "along": "random"}, "`across` is the same direction"),
        ({"probe": "regions", "along": {"random": 1}, "points": 4}, "`points` must be odd"),
    ],
)  # fmt: skip
def test_what_is_refused(probe, said):
    models = MODELS | {"jpeg": {"model": "a", "transform": {"jpeg": 50}}}
    with pytest.raises(StudyError) as caught:
        spec_of({"p": probe}, models=models)
    assert said in caught.value.what
    assert "geometry.p" in caught.value.where


@pytest.mark.parametrize("kind", [{"a": 1}, ["line"], ["regions"], None, 3, "line"])
def test_a_kind_of_any_type_is_refused_with_the_known_kinds(kind):
    with pytest.raises(StudyError) as caught:
        spec_of({"p": {"probe": kind}})
    assert caught.value.what == f"'probe' cannot be {kind!r}"
    assert caught.value.accepted == "gradient-cosine, regions, linearity or intervals"


def test_transformed_models_are_left_out_unless_named():
    from study.geometry.plan import models_of

    spec = spec_of({"p": LINE}, models=MODELS | {"jpeg": {"model": "a", "transform": {"jpeg": 50}}})
    assert models_of(spec, spec.geometry["p"]) == ("a", "b", "c")
