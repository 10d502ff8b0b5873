"""What services answer: read along paths, kept in a file that says when it is damaged."""

from __future__ import annotations

import json
import sqlite3

import pytest

from study.errors import StudyError
from study.models.services.answers import Answers, NotPromised, Reply, found, read
from study.models.services.service_spec import Remote


def test_a_damaged_file_of_answers_is_told_and_left_alone(tmp_path):
    path = tmp_path / "kept.sqlite"
    answers = Answers(path)
    for number in range(20):
        answers.keep(f"question {number}", json.dumps({"labels": [], "more": f"{number:02000d}"}))
    del answers
    whole = path.read_bytes()
    for torn in (whole[: len(whole) // 2], b"no database" * 100, whole[:4096] + b"\0" * 4096 + whole[8192:]):
        path.write_bytes(torn)
        with pytest.raises(StudyError, match="damaged"):
            Answers(path)
        assert path.read_bytes() == torn
    for text, other in ((b"0019", b"0018"), (b"0019", b"\xff\xff\xff\xff")):
        path.write_bytes(whole.replace(text, other))
        with pytest.raises(StudyError, match="not as it was written"):
            Answers(path).get("question 19")
    path.write_bytes(whole)
    assert "0019" in str(Answers(path).get("question 19"))
    path.write_bytes(b"")
    assert Answers(path).get("question 1") is None


def test_a_file_of_something_else_is_refused(tmp_path):
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE mine (a)")
    other.close()
    with pytest.raises(StudyError, match="a database of something else"):
        Answers(tmp_path / "other.sqlite")
    with pytest.raises(StudyError, match="cannot be used"):
        Answers(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot be made"):
        Answers(tmp_path / "file" / "kept.sqlite")


def test_the_first_answer_stays(tmp_path):
    one, two = Answers(tmp_path / "kept.sqlite"), Answers(tmp_path / "kept.sqlite")
    one.keep("q", "first")
    two.keep("q", "second")
    assert one.get("q") == two.get("q") == "first"


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
    assert found(DATA, path) == leads_to


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("output", "no 'output' at its top"),
        ("outputs.2", "no '2' at outputs"),
        ("outputs.data", "no 'data' at outputs"),
        ("0.*", "no '\\*' at 0"),
        ("0.deep.x", "no 'x' at 0.deep"),
        ("outputs.-1", "no '-1'"),
    ],
)
def test_paths_that_lead_nowhere(path, why):
    with pytest.raises(NotPromised, match=why):
        found(DATA, path)


def test_the_best_labels_first_and_no_more_than_asked_for():
    scored = [("b ", 0.2), ("A", 0.9), ("c", 0.2), ("d", 1)]
    body = json.dumps({"labels": [{"label": name, "score": score} for name, score in scored]})
    assert read(body, Remote(url="http://a/", top=3)) == Reply(("d", "a", "b"), (1.0, 0.9, 0.2))
    assert read(body, Remote(url="http://a/", top=3, scores=None)) == Reply(("b", "a", "c"), ())
    assert read('{"labels": []}', Remote(url="http://a/")) == Reply((), ())
    with pytest.raises(NotPromised, match="4 labels and 1 scores"):
        read(body, Remote(url="http://a/", scores="labels.0.score"))
