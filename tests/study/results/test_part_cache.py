"""Very many parts are opened once, whatever is asked of their rows, and the rows are the same."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from study.report.html.document import write
from study.results import current_plan, part_cache, parts
from tests.conftest import rows


def test_a_report_opens_every_part_once(tiny_run, tmp_path, monkeypatch):
    write(tiny_run, tmp_path / "direct.html")
    monkeypatch.setattr(part_cache, "_MANY", 1)
    scans = []
    scan = parts.scan
    monkeypatch.setattr(parts, "scan", lambda run: scans.append(run) or scan(run))
    part_cache._gathered.cache_clear()
    write(tiny_run, tmp_path / "once.html")
    assert len(scans) == 1
    assert (tmp_path / "once.html").read_bytes() == (tmp_path / "direct.html").read_bytes()
    kept = [path for path in Path(part_cache._folder().name).iterdir() if path.suffix == ".parquet"]
    assert kept
    keys = ["unit", "target", "steps", "budget", "image"]
    assert current_plan.rows(str(tiny_run)).collect().sort(keys).equals(rows(tiny_run).sort(keys))


def test_where_nothing_can_be_written_parts_are_scanned_where_they_lie(tiny_run, monkeypatch):
    monkeypatch.setattr(part_cache, "_MANY", 1)
    part_cache._gathered.cache_clear()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.LazyFrame, "sink_parquet", full)
    assert current_plan.rows(str(tiny_run)).select(pl.len()).collect().item() == rows(tiny_run).height
    part_cache._gathered.cache_clear()
