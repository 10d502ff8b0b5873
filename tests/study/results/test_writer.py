"""The writer publishes whole parts, never splits a unit, and polars alone can scan its rows."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from study.results import scanning
from study.results.schema import SCHEMA
from study.results.writer import Writer
from study.storage.run_folder import RunFolder


def unit_rows(unit: str, targets: int = 2) -> pa.Table:
    row = {
        "craft": "a.mi.untargeted.s0-1", "unit": unit, "sources": ["a"], "attack": "mi", "goal": "untargeted",
        "seed": 0, "steps": 10, "budget": 16.0, "gradients": 10, "image": "x.png", "label": 3, "target_label": None,
        "relation": "black", "clean_top1": 3, "top5": [1, 2, 3, 4, 5], "top5_prob": [0.5, 0.2, 0.1, 0.1, 0.1],
        "rmsd": 1.5, "linf": 2.0, "l2": 3.0,
    }  # fmt: skip
    return pa.Table.from_pylist([row | {"target": f"t{index}"} for index in range(targets)], schema=SCHEMA)


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.claim()
    yield run
    run.release()


def test_nothing_is_published_before_its_time(folder):
    writer = Writer(folder, flush_seconds=3600, metadata={"batch": "4"})
    writer.add(unit_rows("u1"))
    writer.tick()
    assert not list(folder.results.iterdir())
    writer.add(unit_rows("u2", targets=1))
    writer.flush()
    (part,) = folder.results.iterdir()
    assert pq.read_schema(part).metadata[b"batch"] == b"4"
    assert scanning.done(folder.path) == {"u1": {"t0", "t1"}, "u2": {"t0"}}
    assert not list(folder.temporary.iterdir())
    writer.flush()
    assert len(list(folder.results.iterdir())) == 1


def test_every_few_seconds(folder):
    writer = Writer(folder, flush_seconds=0, metadata={})
    for number in range(3):
        writer.add(unit_rows(f"u{number}"))
        writer.tick()
    assert len(list(folder.results.iterdir())) == 3
    assert pl.scan_parquet(folder.results / "**/*.parquet").collect().height == 6
