"""Parts of older versions are read with the present columns; parts of later versions are refused."""

from __future__ import annotations

import shutil
import time

import polars as pl
import pyarrow.parquet as pq
import pytest

from study.errors import StudyError
from study.results import scanning, versions
from study.results.schema import SCHEMA, SCHEMA_VERSION
from study.results.verify import verify
from study.storage import part_file
from tests.conftest import rows

NEWER = (
    *("ssim", "ciede2000", "craft_pass", "predict_pass"),
    *("true_names", "sentence", "refused", "queries", "lpips"),
)
"""What versions 4 and 5 added."""


@pytest.fixture
def aged(small, tmp_path):
    """The small run, with its first part in version 1."""
    run = shutil.copytree(small[2], tmp_path / "run")
    part = min((run / "results").iterdir())
    rows = pl.from_arrow(pq.read_table(part))
    flag = (pl.col("relation") == "white").alias("white_box")
    old = (
        rows.with_columns(flag)
        .drop("top1", "relation", *NEWER)
        .to_arrow()
        .replace_schema_metadata({b"study": b"small"})
    )
    pq.write_table(old, run / "results" / "part-00000000000000000001-0123abcd.parquet")
    part.unlink()
    return run


def brought(small, run):
    """The rows of the small run, without what the part in version 1 did not have."""
    old = pl.col("unit").is_in(old_units(run))
    return small[1].with_columns(pl.when(~old).then(pl.col(name)).alias(name) for name in ("ssim", "ciede2000"))


def test_names(small):
    for part in (small[2] / "results").iterdir():
        said = part_file.parse_name(part.name)
        assert said is not None
        assert (said.version, said.digest) == (SCHEMA_VERSION, part_file.digest(part.read_bytes()))
        assert 0 <= time.time() - said.written / 1e9 < 3600
        assert pq.read_schema(part).metadata[versions.METADATA] == str(SCHEMA_VERSION).encode()
    assert part_file.parse_name("part-00000000000000000001-0123abcd.parquet") == part_file.PartName(1, None, 1)
    assert part_file.parse_name("other.parquet") is None
    assert part_file.parse_name("part-v0-1-0123abcd.parquet") is None


def test_version_1_is_brought_forward(aged, small):
    found = scanning.scan(aged).collect()
    assert found.columns == SCHEMA.names
    assert found.schema == small[1].schema
    keys = ["unit", "target"]
    assert found.sort(keys).equals(brought(small, aged).sort(keys))
    report = verify(aged)
    assert report.whole
    assert [one.kind for one in report.findings] == ["note"]


def test_what_a_flag_does_not_say_the_spec_does(aged, small):
    """`b` is grey-box: the network of the source with other weights. The old flag tells only white-box targets."""
    expected = {"a": "white", "b": "grey"}
    for scanned in (scanning.scan(aged), scanning.scan(small[2])):
        assert dict(scanned.select("target", "relation").unique().collect().iter_rows()) == expected
    (aged / "spec.yaml").unlink()
    alone = scanning.scan(aged).filter(pl.col("unit").is_in(old_units(aged))).select("target", "relation").unique()
    assert dict(alone.collect().iter_rows()) == {"a": "white", "b": "black"}


def old_units(run):
    return pl.read_parquet(run / "results" / "part-00000000000000000001-0123abcd.parquet")["unit"].unique().to_list()


def test_columns_that_came_within_version_1(aged, small):
    part = min((aged / "results").iterdir())
    pq.write_table(pq.read_table(part).drop_columns(["names", "scores", "clean_names", "wanted_names"]), part)
    assert scanning.scan(aged).collect().sort("unit", "target").equals(brought(small, aged).sort("unit", "target"))


def test_a_service_has_no_top1(aged):
    part = min((aged / "results").iterdir())
    table = pl.from_arrow(pq.read_table(part))
    table.with_columns(top5=pl.lit([], pl.List(pl.Int32))).write_parquet(part)
    found = scanning.scan(aged).filter(pl.col("top5").list.len() == 0).collect()
    assert found.height == 2
    assert found["top1"].null_count() == 2


def test_compacting_makes_all_of_the_present_version(aged, small, door):
    expected = brought(small, aged)
    assert door("compact", aged)[0] == 0
    assert {part_file.parse_name(path.name).version for path in (aged / "results").iterdir()} == {SCHEMA_VERSION}
    assert rows(aged).equals(expected)


def test_a_later_version_is_refused(small, tmp_path):
    run = shutil.copytree(small[2], tmp_path / "run")
    part = min((run / "results").iterdir())
    part.rename(part.with_name(part.name.replace(f"-v{SCHEMA_VERSION}-", "-v99-")))
    with pytest.raises(StudyError, match="have version 99") as raised:
        scanning.scan(run)
    assert raised.value.accepted == f"versions 1 to {SCHEMA_VERSION}"
    assert not verify(run).whole


def test_another_step_needs_one_function(monkeypatch, aged, small):
    """An invented next version has one more column."""
    present = pl.Schema({**versions.PRESENT, "made_up": pl.Int64})
    step = versions.Migration(
        lambda schema: pl.Schema({name: kind for name, kind in schema.items() if name != "made_up"}),
        lambda frame: frame.with_columns(made_up=pl.col("seed") + 5),
    )
    monkeypatch.setattr(versions, "PRESENT", present)
    monkeypatch.setattr(versions, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    monkeypatch.setitem(versions.MIGRATIONS, SCHEMA_VERSION, step)
    found = scanning.scan(aged).collect().sort("unit", "target")
    assert found["made_up"].to_list() == [5] * 4
    assert found.drop("made_up").equals(brought(small, aged).sort("unit", "target"))


def test_only_what_is_asked_for_is_read(small):
    plan = scanning.scan(small[2]).select("top1").explain()
    assert "PROJECT 1/" in plan
    assert "top5" not in plan


def test_polars_alone_reads_the_parts(small):
    assert pl.scan_parquet(small[2] / "results").collect().height == 4
