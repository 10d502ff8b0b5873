"""A launch that dies while it writes, or finds the disk full: the next launch completes the study."""

from __future__ import annotations

import itertools
import os
import subprocess

import pytest

from tests.conftest import rows, run_here
from tests.study.crashing import DEAD, PUBLISH

FILES = ["arithmetic.json", "spec.yaml", "models.json", "digests.json", "images.parquet", "first part", "second part"]


def assert_complete(run, undisturbed):
    found = rows(run)
    assert found.height == undisturbed.height
    assert found.equals(undisturbed)


def test_every_file_is_on_the_disk_before_it_has_its_name(crashing, small, tmp_path):
    """fsync before rename, and of the folder after it: deaths of the process alone cannot show this."""
    found = crashing(small[0], tmp_path / "run")
    assert found == {"status": 0, "trace": PUBLISH * len(FILES), "error": ""}
    assert_complete(tmp_path / "run", small[1])


# tests/study/storage/test_local.py has deaths within a file; these are deaths between files.
CRASHES = [(file, "before") for file in FILES[3:]] + [(FILES[-1], "after")]


@pytest.mark.parametrize(("file", "how"), CRASHES, ids=[f"{how} {file}" for file, how in CRASHES])
def test_a_death_between_any_two_files(crashing, small, tmp_path, file, how):
    spec, undisturbed, _ = small
    run = tmp_path / "run"
    at = len(PUBLISH) * FILES.index(file) + PUBLISH.index("rename")
    assert crashing(spec, run, at, how)["status"] == DEAD
    committed = {part: part.read_bytes() for part in (run / "results").iterdir()}
    status, printed = run_here(spec, run)
    assert status == 0, printed
    assert {part: part.read_bytes() for part in committed} == committed
    assert_complete(run, undisturbed)
    assert not list((run / "tmp").iterdir())


@pytest.mark.parametrize("file", ["images.parquet", "second part"])
def test_a_full_disk(crashing, small, tmp_path, file):
    spec, undisturbed, _ = small
    run = tmp_path / "run"
    found = crashing(spec, run, len(PUBLISH) * FILES.index(file), "full")
    assert found["status"] == 1
    assert "cannot be written: No space left on device" in found["error"]
    assert not list((run / "tmp").iterdir())
    assert len(list((run / "results").iterdir())) == max(0, FILES.index(file) - FILES.index("first part"))
    assert run_here(spec, run)[0] == 0
    assert_complete(run, undisturbed)


@pytest.mark.parametrize("step", [3, 5], ids=["rename", "fsync of the folder"])
def test_a_part_that_is_refused_once_is_published_once(crashing, small, tmp_path, step):
    """Also if the rename succeeded and only the folder's fsync failed: the last flush finds its part in place."""
    spec, undisturbed, _ = small
    run = tmp_path / "run"
    found = crashing(spec, run, len(PUBLISH) * FILES.index("first part") + step, "refused")
    assert found["status"] == 1
    assert "cannot be written: Input/output error" in found["error"]
    assert rows(run).height == undisturbed.height / 2
    assert run_here(spec, run)[0] == 0
    assert_complete(run, undisturbed)


@pytest.fixture
def little_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk is not permitted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("room", [4, 16], ids=lambda room: f"{room} KiB")
def test_a_disk_that_is_really_full(little_disk, crashing, small, room):
    spec, undisturbed, _ = small
    run, ballast = little_disk / "run", little_disk / "ballast"
    with ballast.open("wb") as opened:
        for _ in itertools.count():
            try:
                os.write(opened.fileno(), bytes(4096))
            except OSError:
                break
        os.truncate(opened.fileno(), os.fstat(opened.fileno()).st_size - room * 1024)
    found = crashing(spec, run)
    assert found["status"] == 1, found
    assert "No space left on device" in found["error"]
    ballast.unlink()
    assert run_here(spec, run)[0] == 0
    assert_complete(run, undisturbed)
