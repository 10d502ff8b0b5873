"""The cache of answers on disk: the first answer stays, and damage is an error."""

from __future__ import annotations

import json
import sqlite3

import pytest

from study.errors import StudyError
from study.models.services.answer_cache import AnswerCache


def test_a_damaged_file_is_reported_and_left_alone(tmp_path):
    path = tmp_path / "cache.sqlite"
    answers = AnswerCache(path)
    for number in range(20):
        answers.put(f"question {number}", json.dumps({"labels": [], "more": f"{number:02000d}"}))
    del answers
    whole = path.read_bytes()
    for torn in (whole[: len(whole) // 2], b"no database" * 100, whole[:4096] + b"\0" * 4096 + whole[8192:]):
        path.write_bytes(torn)
        with pytest.raises(StudyError, match="damaged"):
            AnswerCache(path)
        assert path.read_bytes() == torn
    for text, other in ((b"0019", b"0018"), (b"0019", b"\xff\xff\xff\xff")):
        path.write_bytes(whole.replace(text, other))
        with pytest.raises(StudyError, match=r"checksum of the answer .* is wrong"):
            AnswerCache(path).get("question 19")
    path.write_bytes(whole)
    assert "0019" in str(AnswerCache(path).get("question 19"))
    path.write_bytes(b"")
    assert AnswerCache(path).get("question 1") is None


def test_a_foreign_database_is_refused(tmp_path):
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE mine (a)")
    other.close()
    with pytest.raises(StudyError, match="another program's database"):
        AnswerCache(tmp_path / "other.sqlite")
    with pytest.raises(StudyError, match="cannot be used"):
        AnswerCache(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot be created"):
        AnswerCache(tmp_path / "file" / "cache.sqlite")


def test_the_first_answer_stays(tmp_path):
    one, two = AnswerCache(tmp_path / "cache.sqlite"), AnswerCache(tmp_path / "cache.sqlite")
    one.put("q", "first")
    two.put("q", "second")
    assert one.get("q") == two.get("q") == "first"
