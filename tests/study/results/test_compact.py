"""Many parts into few: the same rows at every moment, also where the process dies at any step."""

from __future__ import annotations

import shutil
import subprocess

import polars as pl
import pyarrow.parquet as pq
import pytest

from study.errors import StudyError
from study.results import parts, versions
from study.results.compact import compact
from study.results.verify import verify
from study.storage.run_folder import RunFolder
from tests.conftest import rows
from tests.study.results.crashing import DEAD


@pytest.fixture
def scattered(small, tmp_path):
    """The small run with a part for every unit and target: four of them."""
    run = shutil.copytree(small[2], tmp_path / "run")
    for part in sorted((run / "results").iterdir()):
        whole = pq.read_table(part)
        for row in range(whole.num_rows):
            content = parts.encoded(whole.slice(row, 1), whole.schema.metadata)
            (run / "results" / versions.new_name(content)).write_bytes(content)
        part.unlink()
    assert len(list((run / "results").iterdir())) == 4
    return run


def read(run):
    frame = parts.scan(run).collect()
    return frame.sort(pl.col("sources").list.join("+"), "attack", "goal", "steps", "budget", "target", "image")


def test_few_parts_with_the_same_rows(scattered, small, door):
    before = pq.read_schema(next((scattered / "results").iterdir())).metadata
    status, printed, _ = door("compact", scattered)
    assert status == 0
    assert "4 parts merged into 1, with 4 rows" in printed.replace("\n", "")
    (part,) = (scattered / "results").iterdir()
    assert rows(scattered).equals(small[1])
    assert pl.read_parquet(part)["unit"].is_sorted()
    assert pq.read_schema(part).metadata == before
    assert verify(scattered).findings == []
    assert not (scattered / "compacting.json").exists()
    assert "1 part merged into 1" in door("compact", scattered)[1].replace("\n", "")


def test_units_stay_whole_and_provenance_apart(scattered, small):
    part = min((scattered / "results").iterdir())
    table = pq.read_table(part)
    content = parts.encoded(table, table.schema.metadata | {b"torch": b"0.1"})
    part.unlink()
    (scattered / "results" / versions.new_name(content)).write_bytes(content)
    folder = RunFolder(scattered)
    folder.claim()
    done = compact(folder)
    folder.release()
    assert (done.before, done.after, done.rows) == (4, 2, 4)
    assert rows(scattered).equals(small[1])
    torches = {pq.read_schema(path).metadata[b"torch"] for path in (scattered / "results").iterdir()}
    assert len(torches) == 2


# New parts: three steps each. Journal: six. In place: three each. Four old ones away: three each. No journal: three.
STEPS = 2 * 3 + 6 + 2 * 3 + 4 * 3 + 3


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("at", range(STEPS))
def test_a_death_at_every_step(scattered, small, crashing, at, how):
    found = crashing("", scattered, at, how, do="compact")
    assert found["status"] == DEAD, found
    assert read(scattered).equals(small[1])
    assert verify(scattered).whole
    folder = RunFolder(scattered)
    folder.claim()
    assert rows(scattered).equals(small[1])
    assert not (scattered / "compacting.json").exists()
    assert not list((scattered / "tmp").iterdir())
    compact(folder, most_rows=2)
    folder.release()
    assert len(list((scattered / "results").iterdir())) == 2
    assert rows(scattered).equals(small[1])


def test_there_are_no_more_steps(scattered, crashing):
    found = crashing("", scattered, STEPS, "before", do="compact")
    assert found["status"] == 0, found


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
    with pytest.raises(StudyError, match="neither the old parts of a compaction nor its new ones are all there"):
        folder.claim()
    assert sorted(path.name for path in (scattered / "results").iterdir()) == names


def test_a_run_in_use_is_left_alone(scattered, door):
    holder = RunFolder(scattered)
    holder.claim()
    assert "is in use by process" in door("compact", scattered)[2]
    holder.release()
    assert subprocess.run(["ls", scattered / "results"], capture_output=True, check=True).stdout.count(b"part-") == 4
