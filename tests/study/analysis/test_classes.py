"""Tables by label against a naive loop over the rows of a real run."""

from __future__ import annotations

import statistics
from collections import Counter

import pytest

from study import analysis
from study.errors import StudyError
from study.images.labels import label_set
from tests.study.analysis.conftest import grouped


def test_per_class(scanned, spec, loop):
    ours = analysis.per_class(scanned, spec.labels)
    cells = grouped(loop, "attack", "goal", "target", "label")
    assert ours.height == len(cells)
    for row in ours.to_dicts():
        cell = cells[row["attack"], row["goal"], row["target"], row["label"]]
        assert (row["images"], row["answers"]) == (len({one["image"] for one in cell}), len(cell))
        assert row["success"] == pytest.approx(statistics.fmean(one["hit1"] for one in cell))
        assert row["name"] == spec.labels.words(row["label"])[0]


@pytest.mark.parametrize("by", [("target",), ("sources", "goal"), ()], ids=str)
def test_wrong_labels(scanned, spec, loop, by):
    ours = analysis.wrong_labels(scanned, spec.labels, most=3, by=by)
    cells = grouped(loop, *by)
    left = grouped(ours.to_dicts(), *by)
    assert set(left) == set(cells)
    for key, cell in cells.items():
        wrong = Counter(one["top5"][0] for one in cell if one["top5"][0] != one["label"])
        expected = sorted(wrong.items(), key=lambda one: (-one[1], one[0]))[:3]
        assert [(row["label"], row["answers"]) for row in left[key]] == expected
        assert [row["rank"] for row in left[key]] == list(range(1, len(expected) + 1))
        assert [row["share"] for row in left[key]] == pytest.approx([one / wrong.total() for _, one in expected])
        assert [row["name"] for row in left[key]] == [spec.labels.words(label)[0] for label, _ in expected]


def test_ties_and_missing_images(by_hand):
    labels = label_set([f"label {index}" for index in range(10)])
    said = [[9, 1, 2, 4, 5], [4, 1, 2, 5, 6], [3, 1, 2, 5, 6]]
    rows = by_hand(*({"image": str(at), "top5": top5} for at, top5 in enumerate(said)))
    found = analysis.wrong_labels(rows, labels)
    assert found.rows() == [("t", 1, 4, "label 4", 1, 0.5), ("t", 2, 9, "label 9", 1, 0.5)]
    assert analysis.wrong_labels(rows, labels, most=1)["label"].to_list() == [4]
    assert analysis.wrong_labels(by_hand(), labels).columns == found.columns
    assert analysis.per_class(by_hand(), labels).is_empty()
    with pytest.raises(StudyError, match="cannot be 0"):
        analysis.wrong_labels(rows, labels, most=0)
