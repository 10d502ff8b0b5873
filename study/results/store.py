"""Parquet parts: the only record of what is done. One writer publishes them whole; anybody may scan them."""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from study.errors import StudyError
from study.results.schema import SCHEMA
from study.run_folder import RunFolder

_MOST_ROWS = 50_000
_SCHEMA = pl.DataFrame(SCHEMA.empty_table()).schema


class Writer:
    """Buffers the rows of finished units and publishes them as a part every few seconds or `_MOST_ROWS` rows.

    A unit's rows are never split over parts. What is not published when a process dies is crafted again.
    """

    def __init__(self, folder: RunFolder, *, flush_seconds: float, metadata: Mapping[str, str]) -> None:
        """`metadata` goes into every part's Parquet schema: what else the rows depend on."""
        self._folder = folder
        self._flush_seconds = flush_seconds
        self._metadata = {key: value.encode() for key, value in metadata.items()}
        self._buffer: list[pa.Table] = []
        self._rows = 0
        self._since = time.monotonic()

    def add(self, rows: pa.Table) -> None:
        """Take the rows of one unit; publishes where very many have gathered."""
        self._buffer.append(rows)
        self._rows += rows.num_rows
        if self._rows >= _MOST_ROWS:
            self.flush()

    def tick(self) -> None:
        """Publish what is buffered where it has been for long enough; called again and again."""
        if time.monotonic() - self._since >= self._flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Publish what is buffered. Raises StudyError, and keeps the buffer, where it cannot be written."""
        if self._buffer:
            joined = pa.concat_tables(self._buffer).replace_schema_metadata(self._metadata)
            sink = pa.BufferOutputStream()
            pq.write_table(joined, sink, compression="zstd")
            name = f"part-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet"
            self._folder.publish(self._folder.results / name, memoryview(sink.getvalue()))
            self._buffer, self._rows = [], 0
        self._since = time.monotonic()


def scan(run: Path) -> pl.LazyFrame:
    """All rows of the run in folder `run`, an empty frame where it has none yet.

    Raises StudyError where the folder holds no run, or a part cannot be read.
    """
    results = run / "results"
    if not results.is_dir():
        raise StudyError(f"{run} is not a run folder: it has no results/", todo="name the folder of a launched study")
    if not any(results.rglob("*.parquet")):
        return pl.DataFrame(SCHEMA.empty_table()).lazy()
    # Parts of before a column was there lack it: its null is right, for what they hold had nothing to say there.
    return pl.scan_parquet(results / "**/*.parquet", schema=_SCHEMA, missing_columns="insert")


def done(run: Path) -> dict[str, set[str]]:
    """The targets that every unit has rows for, by unit id: read from the parts and from nowhere else."""
    finished: dict[str, set[str]] = defaultdict(set)
    pairs = _collect(run, scan(run).select("unit", "target").unique())
    for unit, target in pairs.iter_rows():
        finished[unit].add(target)
    return finished


def moved(run: Path, crafts: Iterable[str]) -> dict[str, dict[str, float]]:
    """RMSD by craft and image, of `crafts` at the end of their steps, as far as there are rows."""
    found: dict[str, dict[str, float]] = {craft: {} for craft in crafts}
    rows = (
        scan(run)
        .filter(pl.col("craft").is_in(list(found)))
        .group_by("craft", "image")
        .agg(pl.col("rmsd").sort_by("steps").last())
    )
    for craft, image, rmsd in _collect(run, rows).iter_rows():
        found[craft][image] = rmsd
    return found


def _collect(run: Path, rows: pl.LazyFrame) -> pl.DataFrame:
    try:
        return rows.collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise StudyError(
            f"the results in {run} cannot be read: {str(error).splitlines()[0]}",
            todo="move the damaged part out of results/ and launch again: its units are then run again",
        ) from error
