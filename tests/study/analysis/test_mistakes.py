"""Agreement and same mistakes against a naive loop over pairs of rows."""

from __future__ import annotations

import itertools

import pytest

from study import analysis
from study.errors import StudyError
from tests.study.analysis.conftest import grouped


@pytest.mark.parametrize("by", [("sources", "attack", "goal", "seed", "steps", "budget"), ("attack",), ()], ids=str)
def test_agreements(scanned, loop, by):
    ours = analysis.agreements(scanned, by=by)
    cells = grouped(loop, *by)
    for row in ours.to_dicts():
        cell = cells[tuple(row[key] for key in by)]
        shown = grouped(cell, "craft", "steps", "budget", "image")
        images = agree = both = same = 0
        for rows in shown.values():
            said = {one["target"]: one["top5"][0] for one in rows}
            if row["first"] in said and row["second"] in said:
                one, other, label = said[row["first"]], said[row["second"]], rows[0]["label"]
                images += 1
                agree += one == other
                both += label not in (one, other)
                same += one == other != label
        assert [row[name] for name in ("images", "agree", "both_wrong", "same_wrong")] == [images, agree, both, same]
        assert row["agreement"] == agree / images
        assert row["same_mistake"] == (same / both if both else None)
    whole = {(row["first"], row["second"]) for row in ours.to_dicts()}
    assert whole == set(itertools.combinations_with_replacement("abc", 2))


def test_agreement_matrix_is_symmetric(scanned):
    pairs = analysis.agreements(scanned, by=("attack",))
    wide = analysis.agreement_matrix(pairs, "agreement", by=("attack",))
    values = {(row["attack"], row["target"], name): row[name] for row in wide.to_dicts() for name in "abc"}
    for row in pairs.to_dicts():
        for pair in ((row["first"], row["second"]), (row["second"], row["first"])):
            assert values[row["attack"], *pair] == row["agreement"]
    assert all(values[attack, name, name] == 1 for attack in wide["attack"] for name in "abc")
    with pytest.raises(StudyError, match="several values"):
        analysis.agreement_matrix(pairs)
    with pytest.raises(StudyError, match="no column"):
        analysis.agreement_matrix(pairs, "sameness")


def test_pairs_without_common_mistakes(by_hand):
    far = {"target": "far", "top5": [], "top5_prob": [], "names": ["dog"], "clean_names": ["cat"]}
    right = [3, 1, 2, 4, 5]
    rows = by_hand(
        {"target": "t"}, {"target": "u"}, far,
        {"target": "t", "image": "y", "top5": right}, {"target": "u", "image": "y", "top5": right},
        {"target": "t", "image": "z"},
    )  # fmt: skip
    found = {(row["first"], row["second"]): row for row in analysis.agreements(rows, by=()).to_dicts()}
    assert set(found) == {("t", "t"), ("t", "u"), ("u", "u")}
    pair = found["t", "u"]
    assert [pair[name] for name in ("images", "agree", "both_wrong", "same_wrong")] == [2, 2, 1, 1]
    never = analysis.agreements(by_hand({"top5": right}), by=())
    assert never["same_mistake"].to_list() == [None]
    assert analysis.agreements(by_hand()).is_empty()
    with pytest.raises(StudyError, match="target"):
        analysis.agreements(rows, by=("target",))


def test_two_targets_without_an_answer_do_not_agree(by_hand):
    """A voting target that abstains has the label -1: a wrong answer, but not the same label as another's -1."""
    silent = [-1, -1, -1, -1, -1]
    rows = by_hand(
        {"target": "t", "top5": silent}, {"target": "u", "top5": silent},
        {"target": "t", "image": "y"}, {"target": "u", "image": "y"},
        {"target": "t", "image": "z", "top5": silent}, {"target": "u", "image": "z"},
    )  # fmt: skip
    found = {(row["first"], row["second"]): row for row in analysis.agreements(rows, by=()).to_dicts()}
    pair = found["t", "u"]
    assert [pair[name] for name in ("images", "agree", "both_wrong", "same_wrong")] == [3, 1, 3, 1]
    assert found["t", "t"]["agree"] == 1
