"""Reading labels and scores in answers of services."""

from __future__ import annotations

import json

import pytest

from study.models.services.reply import Reply, UnexpectedAnswer, follow, read
from study.models.services.service_spec import Remote

DATA = {"outputs": [{"data": {"names": ["a", "b"]}}, {"data": {"names": ["c"]}}], "0": {"deep": 1}, "none": []}


@pytest.mark.parametrize(
    ("path", "leads_to"),
    [
        ("outputs.*.data.names.*", ["a", "b", "c"]),
        ("outputs.1.data.names.0", ["c"]),
        ("outputs.0.data.names", [["a", "b"]]),
        ("0.deep", [1]),
        ("none.*.x", []),
    ],
)
def test_paths(path, leads_to):
    assert follow(DATA, path) == leads_to


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("output", "no 'output' at its top level"),
        ("outputs.2", "no '2' at outputs"),
        ("outputs.data", "no 'data' at outputs"),
        ("0.*", "no '\\*' at 0"),
        ("0.deep.x", "no 'x' at 0.deep"),
        ("outputs.-1", "no '-1'"),
    ],
)
def test_missing_paths(path, why):
    with pytest.raises(UnexpectedAnswer, match=why):
        follow(DATA, path)


def test_the_best_labels_come_first_up_to_top():
    scored = [("b ", 0.2), ("A", 0.9), ("c", 0.2), ("d", 1)]
    body = json.dumps({"labels": [{"label": name, "score": score} for name, score in scored]})
    assert read(body, Remote(url="http://a/", top=3)) == Reply(("d", "a", "b"), (1.0, 0.9, 0.2))
    assert read(body, Remote(url="http://a/", top=3, scores=None)) == Reply(("b", "a", "c"), ())
    assert read('{"labels": []}', Remote(url="http://a/")) == Reply((), ())
    with pytest.raises(UnexpectedAnswer, match="4 labels and 1 scores"):
        read(body, Remote(url="http://a/", scores="labels.0.score"))
