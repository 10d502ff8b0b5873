"""Compaction keeps the same rows at every moment, also if the process dies at any step."""

from __future__ import annotations

import shutil
import subprocess

import polars as pl
import pyarrow.parquet as pq
import pytest

from study.errors import StudyError
from study.results import scanning
from study.results.compact import compact
from study.results.schema import SCHEMA_VERSION
from study.results.verify import verify
from study.results.writer import encode_part
from study.storage import part_file
from study.storage.run_folder import RunFolder
from tests.conftest import rows
from tests.study.crashing import DEAD, PUBLISH


@pytest.fixture
def scattered(small, tmp_path):
    """The small run, split into four parts: one for every unit and target."""
    run = shutil.copytree(small[2], tmp_path / "run")
    for part in sorted((run / "results").iterdir()):
        whole = pq.read_table(part)
        for row in range(whole.num_rows):
            content = encode_part(whole.slice(row, 1), whole.schema.metadata)
            (run / "results" / part_file.new_name(content, SCHEMA_VERSION)).write_bytes(content)
        part.unlink()
    assert len(list((run / "results").iterdir())) == 4
    return run


def read(run):
    frame = scanning.scan(run).collect()
    return frame.sort(pl.col("sources").list.join("+"), "attack", "goal", "steps", "budget", "target", "image")


def test_few_parts_with_the_same_rows(scattered, small, door):
    before = pq.read_schema(next((scattered / "results").iterdir())).metadata
    status, printed, _ = door("compact", scattered)
    assert status == 0
    assert "4 parts before, 1 after, with 4 rows" in printed.replace("\n", "")
    (part,) = (scattered / "results").iterdir()
    assert rows(scattered).equals(small[1])
    assert pl.read_parquet(part)["unit"].is_sorted()
    assert pq.read_schema(part).metadata == before
    assert verify(scattered).findings == []
    assert not (scattered / "compacting.json").exists()
    assert "1 part before, 1 after" in door("compact", scattered)[1].replace("\n", "")


def test_units_stay_whole_and_provenance_apart(scattered, small):
    part = min((scattered / "results").iterdir())
    table = pq.read_table(part)
    content = encode_part(table, table.schema.metadata | {b"torch": b"0.1"})
    part.unlink()
    (scattered / "results" / part_file.new_name(content, SCHEMA_VERSION)).write_bytes(content)
    folder = RunFolder(scattered)
    folder.claim()
    done = compact(folder)
    folder.release()
    assert (done.before, done.after, done.rows) == (4, 2, 4)
    assert rows(scattered).equals(small[1])
    torches = {pq.read_schema(path).metadata[b"torch"] for path in (scattered / "results").iterdir()}
    assert len(torches) == 2


# Stage two new parts, write the journal, commit the two, remove four old parts, remove the journal.
STEPS = 2 * PUBLISH[:3] + PUBLISH + 2 * PUBLISH[3:] + 5 * ["unlink", *PUBLISH[4:]]
CHANGES = [at for at, name in enumerate(STEPS) if name in {"write", "rename", "unlink"}]


def test_the_steps(scattered, crashing):
    assert crashing("", scattered, do="compact") == {"status": 0, "trace": STEPS, "error": ""}


@pytest.mark.parametrize("at", CHANGES, ids=[f"{at} {STEPS[at]}" for at in CHANGES])
def test_a_death_after_every_change(scattered, small, crashing, at):
    found = crashing("", scattered, at, "after", do="compact")
    assert found["status"] == DEAD, found
    assert read(scattered).equals(small[1])
    assert verify(scattered).whole
    folder = RunFolder(scattered)
    folder.claim()
    assert rows(scattered).equals(small[1])
    assert not (scattered / "compacting.json").exists()
    assert not list((scattered / "tmp").iterdir())
    compact(folder, rows_per_part=2)
    folder.release()
    assert len(list((scattered / "results").iterdir())) == 2
    assert rows(scattered).equals(small[1])


@pytest.mark.parametrize("at", [1, 7])
def test_a_full_disk(scattered, small, crashing, at):
    found = crashing("", scattered, at, "full", do="compact")
    assert found["status"] == 1
    assert "No space left on device" in found["error"]
    assert rows(scattered).equals(small[1])


def test_parts_that_were_lost_since_are_not_guessed(scattered):
    names = sorted(path.name for path in (scattered / "results").iterdir())
    folder = RunFolder(scattered)
    (scattered / "compacting.json").write_text(
        f'{{"old": ["{names[0]}", "part-1-00000000.parquet"], "new": ["{names[1]}", "part-2-00000000.parquet"]}}'
    )
    with pytest.raises(StudyError, match="neither all its old parts nor all its new parts exist"):
        folder.claim()
    assert sorted(path.name for path in (scattered / "results").iterdir()) == names


def test_a_run_in_use_is_left_alone(scattered, door):
    holder = RunFolder(scattered)
    holder.claim()
    assert "is in use by process" in door("compact", scattered)[2]
    holder.release()
    assert subprocess.run(["ls", scattered / "results"], capture_output=True, check=True).stdout.count(b"part-") == 4
