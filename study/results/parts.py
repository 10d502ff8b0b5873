"""Parquet parts: the only record of what is done. One writer publishes them whole; anybody may scan them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from study.errors import StudyError
from study.results import integrity, versions
from study.results.schema import SCHEMA, SCHEMA_VERSION
from study.storage.journal import counting
from study.storage.places import Place
from study.storage.run_folder import RunFolder
from study.storage.s3 import ObjectPath, scan_options

_MOST_ROWS = 50_000


class Writer:
    """Buffers the rows of finished units and publishes them as a part every few seconds or `_MOST_ROWS` rows.

    A unit's rows are never split over parts. What is not published when a process dies is crafted again.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        flush_seconds: float,
        metadata: Mapping[str, str],
        into: Place | None = None,
        version: int = SCHEMA_VERSION,
    ) -> None:
        """`metadata` goes into every part's Parquet schema: what else the rows depend on.

        Parts go to `results/`, or `into` another folder of the run, which is there; `version` is that of their columns.
        """
        self._folder = folder
        self._into = folder.results if into is None else into
        self._version = version
        self._flush_seconds = flush_seconds
        self._metadata = {key.encode(): value.encode() for key, value in metadata.items()}
        self._buffer: list[pa.Table] = []
        self._rows = 0
        self._pending: tuple[str, memoryview] | None = None
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
        """Publish what is buffered. Raises StudyError, and keeps the buffer, where it cannot be written.

        What failed once is published under the same name when tried again: it may be there already.
        """
        self._publish()
        if self._buffer:
            content = encoded(pa.concat_tables(self._buffer), self._metadata, self._version)
            self._pending = (versions.new_name(content, self._version), content)
            self._buffer, self._rows = [], 0
            self._publish()
        self._since = time.monotonic()

    def _publish(self) -> None:
        if self._pending is not None:
            name, content = self._pending
            self._folder.publish_new(self._into / name, content)
            self._pending = None


def encoded(rows: pa.Table, metadata: Mapping[bytes, bytes], version: int = SCHEMA_VERSION) -> memoryview:
    """A part's file: `rows` in row groups of at most 100,000, `metadata` and the version of the columns."""
    sink = pa.BufferOutputStream()
    said = {**metadata, versions.METADATA: str(version).encode()}
    pq.write_table(rows.replace_schema_metadata(said), sink, compression="zstd", row_group_size=100_000)
    return memoryview(sink.getvalue())


def parts(run: str | Place) -> list[Place]:
    """The parts whose rows count, by name; files that are no parts are left alone. StudyError where there is no run."""
    folder = RunFolder(run)
    found = integrity.parts(folder.results)
    # Objects have no folders: there, a run without rows is known by what was selected for it.
    if not found and not folder.results.is_dir() and not folder.begun:
        raise StudyError(f"{run} is not a run folder: it has no results/", todo="name the folder of a launched study")
    return counting(folder.path, found)


def scan(run: str | Place) -> pl.LazyFrame:
    """All rows of the run in folder `run`, or at `s3://bucket/prefix`; an empty frame where it has none yet.

    Parts of older versions get the present columns, see `graded`. Raises StudyError where there is no run, or
    a part was written by a later version.
    """
    by_version: dict[int, list[Place]] = defaultdict(list)
    for part in parts(run):
        by_version[versions.version(part.name, run)].append(part)
    frames = [graded(run, scan_parts(found, version), version) for version, found in sorted(by_version.items())]
    if not frames:
        return pl.DataFrame(SCHEMA.empty_table()).lazy()
    return frames[0] if len(frames) == 1 else pl.concat(frames)


def graded(run: str | Place, rows: pl.LazyFrame, version: int) -> pl.LazyFrame:
    """Rows of parts of `version`, with grey-box targets told from black ones by the spec of `run`.

    Rows of later versions know that themselves. Where the spec cannot be read, rows stay as their white-box flag had
    them.
    """
    if version >= versions.GRADED:
        return rows
    from study.planning import relation, resume

    try:
        models = resume.spec_of(RunFolder(run)).models
    except (StudyError, OSError, UnicodeDecodeError):
        return rows
    return relation.graded(rows, models)


def scan_parts(found: Sequence[Place], version: int, path: str | None = None) -> pl.LazyFrame:
    """The rows of parts of one version, with the present columns, and the part's path in the column `path`."""
    remote = any(isinstance(part, ObjectPath) for part in found)
    rows = pl.scan_parquet(
        [str(part) for part in found],
        schema=versions.columns(version),
        glob=False,
        hive_partitioning=False,
        # Columns came and went within the first version: their null is right, for there was nothing to say.
        missing_columns="insert" if version == 1 else "raise",
        include_file_paths=path,
        storage_options=scan_options() if remote else None,
    )
    return versions.forward(rows, version, *([path] if path else []))


def done(run: str | Place) -> dict[str, set[str]]:
    """The targets that every unit has rows for, by unit id: read from the parts and from nowhere else."""
    finished: dict[str, set[str]] = defaultdict(set)
    pairs = collect(run, scan(run).select("unit", "target").unique())
    for unit, target in pairs.iter_rows():
        finished[unit].add(target)
    return finished


def moved(run: str | Place, crafts: Iterable[str]) -> dict[str, dict[str, float]]:
    """RMSD by craft and image, of `crafts` at the end of their steps, as far as there are rows."""
    found: dict[str, dict[str, float]] = {craft: {} for craft in crafts}
    rows = (
        scan(run)
        .filter(pl.col("craft").is_in(list(found)))
        .group_by("craft", "image")
        .agg(pl.col("rmsd").sort_by("steps").last())
    )
    for craft, image, rmsd in collect(run, rows).iter_rows():
        found[craft][image] = rmsd
    return found


def collect(run: str | Place, rows: pl.LazyFrame) -> pl.DataFrame:
    """Carry a scan of `run` out. Raises StudyError where a part cannot be read."""
    with integrity.reading(run):
        return rows.collect()
