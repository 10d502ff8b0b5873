"""Scans of a run: its rows in the present columns; very many parts are opened once, however many queries follow."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from study.report.html.document import write
from study.results import current_plan, scanning
from study.results.schema import SCHEMA
from study.results.writer import Writer
from study.storage.run_folder import RunFolder
from tests.study.results.test_writer import unit_rows


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.claim()
    yield run
    run.release()


def test_an_empty_run_has_the_schema(folder):
    found = scanning.scan(folder.path).collect()
    assert found.columns == SCHEMA.names
    assert found.height == 0
    assert scanning.done(folder.path) == {}
    assert scanning.rmsd_by_image(folder.path, ["c"]) == {"c": {}}


def test_rmsd_has_each_image_once(folder):
    writer = Writer(folder, flush_seconds=0, metadata={})
    writer.add(unit_rows("u1"))
    writer.flush()
    assert scanning.rmsd_by_image(folder.path, ["a.mi.untargeted.s0-1", "other"]) == {
        "a.mi.untargeted.s0-1": {"x.png": 1.5},
        "other": {},
    }


def test_a_report_opens_every_part_once(small, tmp_path, monkeypatch):
    _, undisturbed, run = small
    write(run, tmp_path / "direct.html")
    monkeypatch.setattr(scanning, "MANY_PARTS", 1)
    scans = []
    scan = scanning.scan
    monkeypatch.setattr(scanning, "scan", lambda run: scans.append(run) or scan(run))
    write(run, tmp_path / "once.html")
    assert len(scans) == 1
    assert (tmp_path / "once.html").read_bytes() == (tmp_path / "direct.html").read_bytes()
    assert list(Path(scanning.cache_folder()).glob("*.parquet"))
    assert current_plan.rows(str(run)).collect().sort("unit", "target").equals(undisturbed.sort("unit", "target"))


def test_without_space_for_the_copy_the_parts_are_scanned(folder, monkeypatch):
    writer = Writer(folder, flush_seconds=0, metadata={})
    for unit in ("u1", "u2"):
        writer.add(unit_rows(unit))
        writer.flush()
    monkeypatch.setattr(scanning, "MANY_PARTS", 1)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.LazyFrame, "sink_parquet", full)
    assert scanning.scan_cached(folder.path).collect().height == 4
