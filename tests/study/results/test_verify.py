"""`study verify` finds every kind of damage, and none in an intact run."""

from __future__ import annotations

import json
import shutil

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from study.errors import StudyError
from study.results import kept_images
from study.results.schema import SCHEMA_VERSION
from study.results.verify import verify
from study.results.writer import encode_part
from study.storage import part_file
from study.storage.run_folder import RunFolder
from tests.study.conftest import SMALL

KEEPING = SMALL.replace("flush_seconds: 0", "flush_seconds: 0, keep_images: true")


@pytest.fixture
def run(small, tmp_path):
    return shutil.copytree(small[2], tmp_path / "run")


def parts(run):
    return sorted((run / "results").iterdir())


def rewrite(run, change, *, name=None):
    """Change the rows of the first part, in a valid file under a matching name, or under `name`."""
    part = parts(run)[0]
    table = pq.read_table(part)
    content = encode_part(pa.table(change(pl.from_arrow(table)).to_arrow()).cast(table.schema), table.schema.metadata)
    part.unlink()
    (run / "results" / (name or part_file.new_name(content, SCHEMA_VERSION))).write_bytes(content)


def test_a_whole_run(run):
    report = verify(run)
    assert report.findings == []
    assert report.whole
    assert (report.parts, report.rows, report.units, report.pairs, report.expected) == (2, 4, 2, 4, 4)


def test_the_tiny_run_is_whole_too(tiny_run):
    report = verify(tiny_run)
    assert report.findings == []
    assert report.pairs == report.expected


def flip(run):
    part = parts(run)[0]
    content = bytearray(part.read_bytes())
    content[len(content) // 3] ^= 1
    part.write_bytes(content)


def truncate(run):
    part = parts(run)[0]
    part.write_bytes(part.read_bytes()[:-100])


def double(run):
    part = parts(run)[0]
    shutil.copy(part, part.with_name(part_file.new_name(part.read_bytes(), SCHEMA_VERSION)))


def edit(run):
    rewrite(run, lambda rows: rows.with_columns(rmsd=pl.col("rmsd") + 0.25), name=parts(run)[0].name)


def lessen(run):
    """Drop the rows of one target."""
    rewrite(run, lambda rows: rows.head(1))


def set_to(**values):
    def change(run):
        rewrite(run, lambda rows: rows.with_columns(**{name: pl.lit(value) for name, value in values.items()}))

    return change


def set_list(column, value, dtype):
    def change(run):
        rewrite(run, lambda rows: rows.with_columns(pl.Series(column, [value] * rows.height, pl.List(dtype))))

    return change


DAMAGES = [
    (flip, "damaged", "its content does not match the digest in its name|the part cannot be read"),
    (truncate, "damaged", "the part cannot be read"),
    (lambda run: parts(run)[0].unlink(), "incomplete", "2 of 4 (unit, target) pairs have no rows"),
    (double, "damaged", "2 rows exist more than once"),
    (edit, "damaged", "its content does not match the digest in its name"),
    (lessen, "incomplete", "1 of 4 (unit, target) pairs have no rows"),
    (lambda run: (run / "images.parquet").unlink(), "damaged", "images.parquet is missing"),
    (lambda run: (run / "models.json").unlink(), "damaged", "models.json is missing"),
    (lambda run: (run / "spec.yaml").unlink(), "damaged", "spec.yaml is missing"),
    (lambda run: (run / "spec.yaml").write_text("study: ["), "damaged", "is not YAML|expected|YAML"),
    (lambda run: (run / "models.json").write_text((run / "models.json").read_text() + " "), "damaged",
     "models.json does not match its recorded digest"),
    (lambda run: (run / "images.parquet").write_bytes(b"PAR1"), "damaged",
     "images.parquet does not match its recorded digest"),
    (lambda run: (run / "digests.json").write_text("{"), "damaged", "digests.json is damaged"),
    (lambda run: (run / "compacting.json").write_text("{"), "damaged", "compacting.json is damaged"),
    (lambda run: (run / "arithmetic.json").write_text('{"workers": [3]}'), "damaged", "arithmetic.json is damaged"),
    (set_to(rmsd=-1.0), "damaged", "2 rows have an RMSD outside 0 to 255"),
    (set_to(rmsd=float("nan")), "damaged", "2 rows have an RMSD outside 0 to 255"),
    (set_to(linf=256.0), "damaged", "an L-infinity distance"),
    (set_to(l2=float("inf")), "damaged", "an L2 distance"),
    (set_to(label=1000), "damaged", "a label outside 0 to 999"),
    (set_to(top1=999), "damaged", "a top1 that is not the first of top5"),
    (set_list("top5", [-1, 2, 3, 4, 5], pl.Int32), "damaged", "a predicted label outside 0 to 999"),
    (set_list("top5_prob", [0.1, 0.2, 0.0, 0.0, 0.0], pl.Float32), "damaged", "probabilities that are not sorted"),
    (set_list("top5_prob", [1.5, 0.2, 0.0, 0.0, 0.0], pl.Float32), "damaged", "probabilities outside 0 to 1"),
    (set_list("top5_prob", [float("nan")] * 5, pl.Float32), "damaged", "probabilities outside 0 to 1"),
    (set_list("top5_prob", [0.5], pl.Float32), "damaged", "different numbers of labels and probabilities"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "kind", "what"), DAMAGES, ids=[f"{n} {what[:40]}" for n, (*_, what) in enumerate(DAMAGES)]
)
def test_damage_is_found(run, damage, kind, what):
    damage(run)
    report = verify(run)
    assert not report.whole
    found = [one for one in report.findings if one.kind == kind and any(text in one.what for text in what.split("|"))]
    assert found, report.findings
    assert all(finding.where and finding.todo for finding in report.findings)


def test_rows_of_an_earlier_spec_are_noted(run):
    rewrite(run, lambda rows: pl.concat([rows, rows.with_columns(unit=pl.lit("of.an.earlier.spec"))]))
    report = verify(run)
    assert report.whole
    (note,) = report.findings
    assert (note.kind, note.what) == (
        "note",
        "2 rows have a unit or target that is not in the plan of the present spec",
    )
    assert note.todo == (
        "nothing: an earlier spec asked for them, or an earlier version of an attack wrote them (then a launch runs "
        "their units again)"
    )
    assert (report.units, report.pairs, report.expected) == (3, 4, 4)


def test_rows_outside_the_plan_do_not_stand_for_missing_pairs(door, run):
    rewrite(run, lambda rows: rows.with_columns(unit=pl.lit("of.an.earlier.version")))
    status, printed, _ = door("verify", run)
    assert status == 1
    assert "2 parts, 4 rows, 2 units, 2 of 4 (unit, target) pairs" in printed
    assert "incomplete: 2 of 4 (unit, target) pairs have no rows" in printed
    found = json.loads(door("verify", run, "--json")[1])
    assert (found["pairs"], found["expected"]) == (2, 4)


def test_the_command(door, run):
    status, printed, _ = door("verify", run)
    assert status == 0
    assert "2 parts, 4 rows, 2 units, 4 of 4 (unit, target) pairs" in printed
    parts(run)[0].unlink()
    status, printed, _ = door("verify", run, "--json")
    assert status == 1
    found = json.loads(printed)
    assert found["whole"] is False
    assert found["findings"][0]["kind"] == "incomplete"
    status, _, error = door("verify", run.parent)
    assert status == 2
    assert "is not a run folder" in error


def test_a_damaged_journal_is_reported(door, run):
    """It would say which parts count. Without it, no row is called missing or doubled, but each part is read."""
    (run / "compacting.json").write_text("{")
    truncate(run)
    (run / "spec.yaml").write_text("study: [")
    status, printed, _ = door("verify", run, "--json")
    assert status == 1
    found = json.loads(printed)
    assert (found["whole"], found["parts"], found["expected"]) == (False, 2, None)
    assert (found["rows"], found["units"], found["pairs"]) == (None, None, None)
    assert door("verify", run)[1].splitlines()[0] == f"{run}: 2 parts, rows were not counted"
    assert found["findings"][0] == {
        "kind": "damaged",
        "what": f"{run / 'compacting.json'} is damaged: Expecting property name enclosed in double quotes: line 1 "
        "column 2 (char 1)",
        "where": str(run / "compacting.json"),
        "todo": "restore the file from a backup; or move it away, and check results/ with `study verify`",
    }
    assert [one["where"] for one in found["findings"][1:] if one["kind"] == "damaged"] == [
        str(parts(run)[0]),
        str(run / "spec.yaml"),
        str(run / "spec.yaml"),
    ]


def test_units_without_their_kept_images_are_incomplete(finished, door, tmp_path):
    run = shutil.copytree(finished(KEEPING), tmp_path / "run")
    assert verify(run).findings == []
    (first, second) = sorted((run / "kept").iterdir())
    units = kept_images.units_in(first)
    first.unlink()
    (found,) = verify(run).findings
    assert (found.kind, found.what, found.where, found.todo) == (
        "incomplete",
        "1 unit has all its rows, but no kept images",
        f"such as unit {units[0]}",
        "launch the study again to make these images",
    )
    second.unlink()
    assert [one.what for one in verify(run).findings] == ["2 units have all their rows, but no kept images"]
    assert door("verify", run)[0] == 1
    for part in parts(run):
        part.unlink()
    assert [one.what for one in verify(run).findings] == ["4 of 4 (unit, target) pairs have no rows"]


def test_a_launch_repairs_a_damaged_run(run, small, spec_file):
    from tests.conftest import rows, run_here

    truncate(run)
    (damaged,) = [one for one in verify(run).findings if one.kind == "damaged"]
    (run / "results" / damaged.where.rpartition("/")[2]).unlink()
    assert run_here(small[0], run)[0] == 0
    assert verify(run).whole
    assert rows(run).equals(small[1])


def test_no_run(tmp_path):
    with pytest.raises(StudyError, match="is not a run folder"):
        verify(tmp_path)
    RunFolder(tmp_path)
