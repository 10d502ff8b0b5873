"""Of the numbers of TransferAttack's readme, each whose attack, source and target exist here is planned by one cell."""

from __future__ import annotations

from collections import Counter

import polars as pl
import pytest

from study.attacks import presets
from study.papers import published
from study.papers.published_matching import match
from study.spec.loading import load
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def matched(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSFERATTACK_DATA", str(tmp_path_factory.mktemp("data")))
        spec = load(ROOT / "specs" / "transferattack.yaml").spec
    return match(published.load("transferattack"), spec), spec


def test_every_number_is_planned_once_or_has_a_reason(matched):
    found, spec = matched
    assert found.height == 1586
    models = set(spec.models)
    counted = Counter()
    for row in found.iter_rows(named=True):
        known = presets.preset(row["attack"]) is not None or row["attack"] == "ensemble"
        sources = set(row["sources"].split("+")) - {""}
        exists = known and row["target"] in models and bool(sources) and sources <= models
        assert (row["experiment"] is None) == (row["reason"] is not None)
        assert (row["experiment"] is not None) == exists, (row["attack"], row["target"], row["reason"])
        counted["planned" if exists else row["reason"].split("'")[0]] += 1
    # Five of thirteen targets are defended ones, and each attack that is here has eight numbers.
    assert counted["planned"] % 8 == 0
    assert counted["planned"] >= 8 * 44


def test_the_first_weights_stand_for_the_source_and_the_target_of_those_attacks_that_had_them(matched):
    found, _ = matched
    first = found.filter(pl.col("experiment") == "resnet50-v1")
    assert set(first["our_sources"]) == {"resnet50_v1"}
    assert set(first.filter(pl.col("target") == "resnet50")["our_target"]) == {"resnet50_v1"}
    assert set(first["note"].str.contains("V1")) == {True}


def test_steps_that_only_prepare_do_not_count(matched):
    found, spec = matched
    gi = found.filter(attack="gi", target="vgg16").row(0, named=True)
    assert (gi["experiment"], gi["steps"], spec.attacks["gi"].steps) == ("resnet50", 15, 15)
