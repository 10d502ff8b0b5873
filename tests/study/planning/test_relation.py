"""White, grey and black: one rule, from a spec's references, for single sources and ensembles."""

from __future__ import annotations

import polars as pl
import pytest
import yaml

from study.planning import relation
from study.planning.relation import RELATIONS
from study.results import scanning
from study.spec.loading import resolve
from study.spec.yaml_document import parse
from tests.conftest import TINY, rows

MODELS = {
    "lite": {"network": "timm:tf_efficientnet_lite0", "weights": "random:0"},
    "lite-tagged": {"network": "timm:tf_efficientnet_lite0.in1k"},
    "lite-jpeg": {"model": "lite", "transform": {"jpeg": 75}},
    "squeeze": {"network": "torchvision:squeezenet1_1", "weights": "random:1"},
    "squeeze-blurred": {"model": "squeeze", "transform": {"blur": 1}},
    "theirs": "torchvision:resnet50/IMAGENET1K_V1",
    "ours": {"network": "timm:resnet50.a1_in1k"},
    "deep": {"network": "python:nets.py:make", "arguments": {"depth": 50}},
    "deep-again": {"network": "python:nets.py:make", "arguments": {"depth": 50}, "weights": "random:3"},
    "flat": {"network": "python:nets.py:make", "arguments": {"depth": 2}},
}


@pytest.fixture(scope="module")
def models():
    experiments = {"x": {"attacks": ["mi"], "sources": ["lite"]}}
    whole = yaml.safe_load(TINY) | {"models": MODELS, "attacks": {}, "experiments": experiments}
    return resolve(parse(yaml.safe_dump(whole), "spec")).spec.models


@pytest.mark.parametrize(
    ("sources", "target", "expected"),
    [
        (["lite"], "lite", "white"),
        (["lite"], "squeeze", "black"),
        (["lite"], "lite-jpeg", "grey"),
        (["lite"], "lite-tagged", "grey"),
        (["squeeze"], "lite-jpeg", "black"),
        (["lite", "squeeze"], "squeeze", "white"),
        (["lite", "squeeze"], "squeeze-blurred", "grey"),
        (["lite", "theirs"], "squeeze-blurred", "black"),
        (["theirs"], "ours", "grey"),
        (["deep"], "deep-again", "grey"),
        (["deep"], "flat", "black"),
        ([], "lite", "black"),
    ],
)
def test_relation(models, sources, target, expected):
    assert relation.relation(models, sources, target) == expected


def test_every_row_of_a_run_has_its_relation(many_run):
    found = rows(many_run).group_by(pl.col("sources").list.join("+"), "target").agg(pl.col("relation").unique())
    kinds = {(sources, target): kind for sources, target, (kind,) in found.iter_rows()}
    assert {cell for cell, kind in kinds.items() if kind == "white"} == {
        (one, target) for one, target in kinds if target in one.split("+")
    }
    assert {cell for cell, kind in kinds.items() if kind == "grey"} == {("a", "a-jpeg"), ("a+b", "a-jpeg")}
    assert kinds["b", "a-jpeg"] == kinds["a", "c"] == "black"


def test_a_flag_and_a_spec_say_what_rows_say(many_run):
    spec = resolve(parse((many_run / "spec.yaml").read_text(), "spec.yaml")).spec
    known = scanning.scan(many_run)
    flagged = known.with_columns(
        relation=pl.when(pl.col("relation") == "white").then(pl.lit("white")).otherwise(pl.lit("black"))
    )
    again = relation.graded(flagged, spec.models).select("unit", "target", "steps", "image", "budget", "relation")
    assert again.collect().equals(known.select(again.collect_schema().names()).collect())
    assert set(RELATIONS) == set(again.collect()["relation"])
