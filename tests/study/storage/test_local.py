"""A run in a local folder: one driver at a time, and whole files at whatever step a process dies."""

from __future__ import annotations

import pytest

from study.errors import StudyError
from study.storage.run_folder import RunFolder
from tests.study.crashing import DEAD, PUBLISH

OLD, NEW = b"the old content", b"the new content, which is longer"

DEATHS = [
    (step, how)
    for step, name in enumerate(PUBLISH)
    for how in (("before", "half", "after") if name == "write" else ("before", "after"))
]


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.claim()
    yield run
    run.release()


def test_stray_temporary_files_are_removed_and_parts_are_not(folder):
    (folder.temporary / "part-1.parquet.99").write_bytes(b"half")
    (folder.results / "part-1.parquet").write_bytes(b"kept")
    folder.release()
    again = RunFolder(folder.path)
    again.claim()
    again.release()
    assert not list(folder.temporary.iterdir())
    assert (folder.results / "part-1.parquet").read_bytes() == b"kept"


def test_one_driver_at_a_time(folder):
    with pytest.raises(StudyError, match="is in use by process"):
        RunFolder(folder.path).claim()


@pytest.fixture
def written(folder):
    """A claimed and released folder with a file of the old content."""
    folder.publish(folder.path / "file", OLD)
    folder.release()
    return folder


@pytest.mark.parametrize(("at", "how"), DEATHS, ids=[f"{how} {at} {PUBLISH[at]}" for at, how in DEATHS])
def test_a_death_at_every_step_leaves_the_old_file_or_the_new_one(crashing, written, at, how):
    found = crashing(NEW.decode(), written.path, at, how, do="publish")
    assert found["status"] == DEAD
    renamed = at > PUBLISH.index("rename") or (PUBLISH[at], how) == ("rename", "after")
    assert (written.path / "file").read_bytes() == (NEW if renamed else OLD)
    written.claim()
    assert not list(written.temporary.iterdir())


FAILURES = [("full", 1), *(("refused", at) for at in range(len(PUBLISH)))]


@pytest.mark.parametrize(("how", "at"), FAILURES, ids=[f"{how} {at} {PUBLISH[at]}" for how, at in FAILURES])
def test_a_step_that_fails_is_an_error_and_can_be_repeated(crashing, written, how, at):
    found = crashing(NEW.decode(), written.path, at, how, do="publish")
    assert found["status"] == 1
    reason = "Input/output error" if how == "refused" else "No space left on device"
    assert f"cannot be written: {reason}" in found["error"]
    assert "free disk space or repair the folder, then launch again" in found["error"]
    assert not list(written.temporary.iterdir())
    assert (written.path / "file").read_bytes() == (NEW if at > PUBLISH.index("rename") else OLD)
    written.claim()
    written.publish(written.path / "file", NEW)
    assert (written.path / "file").read_bytes() == NEW
