"""A part of a study now, and the rest later: the same rows in the end."""

from __future__ import annotations

import pytest

from study.terminal import Style
from tests.conftest import FEWER, TINY, rows


def test_parts_of_a_study_come_to_the_whole(door, spec_file, tmp_path, finished):
    spec, run = spec_file(FEWER), tmp_path / "run"
    status, printed, error = door("launch", spec, "--output", run, "--only", "ensembles", "--limit", 4)
    assert status == 1, error
    assert "done as asked" in printed
    assert "26 units are left" in printed
    assert f"the rest: study launch {spec} --output {run}\n" in printed
    found = rows(run)
    assert found["unit"].n_unique() == 4
    assert set(found["attack"]) <= {"mi", "summed"}
    status, printed, _ = door("launch", spec, "--output", run, "--only", "ensembles")
    assert status == 1
    assert "ensembles 6/6" in printed
    assert rows(run)["unit"].n_unique() == 6
    # What is matched comes with, or after, what it is matched to.
    status, printed, _ = door("launch", spec, "--output", run, "--limit", 10)
    assert status == 1
    assert rows(run)["unit"].n_unique() == 16
    assert door("launch", spec, "--output", run)[0] == 0
    assert rows(run).equals(rows(finished(FEWER)))


def test_no_such_experiment(door, spec_file):
    status, _, error = door("launch", spec_file(TINY), "--only", "ensemble")
    assert status == 2
    for part in ("no experiment 'ensemble'", "--only ensemble", "ensembles (the nearest)"):
        assert part in error


def test_styles_are_what_they_say():
    with pytest.raises(AttributeError):
        Style().how = "json"  # type: ignore[misc]
