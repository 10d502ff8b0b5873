"""Reads the rows of a run as polars queries. Any earlier version of `study` may have written the rows."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from study.errors import StudyError
from study.planning import resume
from study.planning.relation import graded
from study.results import integrity, versions
from study.results.schema import SCHEMA
from study.storage import part_file
from study.storage.journal import counted
from study.storage.no_run import no_run
from study.storage.paths import StoragePath
from study.storage.run_folder import RunFolder
from study.storage.s3_path import S3Path, scan_options

MANY_PARTS = 500
"""The number of parts (Parquet files) above which `scan_cached` copies the rows into one file.

Opening this many parts takes well under a second."""


def parts(run: str | StoragePath) -> list[StoragePath]:
    """Return the parts (Parquet files) whose rows count, sorted by path.

    During a compaction, either the old or the new parts count. Files that are not parts are ignored. Raises StudyError
    if there is no run.
    """
    folder = RunFolder(run)
    found = part_file.list_parts(folder.results)
    # S3 has no folders, so `is_dir` is false for a run without rows. The selected images show that there is a run.
    if not found and not folder.results.is_dir() and not folder.begun:
        raise no_run(folder.path, f"{run} is not a run folder: it has no results/")
    return counted(folder.path, found)


def scan(run: str | StoragePath) -> pl.LazyFrame:
    """Return all rows of a run, with the columns of this version of study, as a lazy frame.

    The frame is empty if the run has no rows yet. Raises StudyError if there is no run, or a later version of study
    wrote a part.
    """
    return scan_versions(run, parts(run))


def scan_cached(run: str | StoragePath) -> pl.LazyFrame:
    """Return the same rows as `scan`, faster to query many times.

    If there are more than MANY_PARTS parts, their rows are first copied into one temporary file, which is deleted when
    this process ends. If this file cannot be written, every query scans the parts.
    """
    found = parts(run)
    if len(found) <= MANY_PARTS:
        return scan(run)
    return _copied(str(run), tuple(part.name for part in found))


@functools.cache
def _copied(run: str, names: tuple[str, ...]) -> pl.LazyFrame:
    rows = scan(run)
    with contextlib.suppress(OSError):
        file = Path(cache_folder()) / f"rows-{abs(hash((run, names))):x}.parquet"
        rows.sink_parquet(file, compression="lz4")
        return pl.scan_parquet(file, glob=False)
    return rows


def cache_folder() -> str:
    """Return the folder of the temporary files of `scan_cached`. It is removed when this process ends."""
    return _temporary().name


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="study-")


def scan_versions(run: str | StoragePath, found: Iterable[StoragePath]) -> pl.LazyFrame:
    """Return the rows of some parts of `run`, with the present columns. The parts may have different versions."""
    by_version: dict[int, list[StoragePath]] = defaultdict(list)
    for part in found:
        by_version[versions.part_version(part.name, run)].append(part)
    frames = [_with_relations(run, scan_parts(same, version), version) for version, same in sorted(by_version.items())]
    if not frames:
        return pl.DataFrame(SCHEMA.empty_table()).lazy()
    return frames[0] if len(frames) == 1 else pl.concat(frames)


def _with_relations(run: str | StoragePath, rows: pl.LazyFrame, version: int) -> pl.LazyFrame:
    """Return the rows with grey-box targets marked as such. `rows` are rows of `version`.

    Old versions of study recorded grey-box targets as black-box. The spec of `run` tells which targets are grey-box. If
    the spec cannot be read, the rows stay black-box.
    """
    if version >= versions.GRADED:
        return rows
    try:
        models = resume.spec_of(RunFolder(run)).models
    except (StudyError, OSError, UnicodeDecodeError):
        return rows
    return graded(rows, models)


def scan_parts(found: Sequence[StoragePath], version: int, path: str | None = None) -> pl.LazyFrame:
    """Return the rows of parts that all have `version`, with the present columns.

    `path`: the name of a further column with the path of each row's part; None for no such column.
    """
    rows = scan_files(
        found,
        schema=versions.columns(version),
        # Parts of version 1 do not all have the same columns. A column that a part lacks is read as null.
        missing_columns="insert" if version == 1 else "raise",
        include_file_paths=path,
    )
    return versions.forward(rows, version, *([path] if path else []))


def scan_files(found: Sequence[StoragePath], **options: Any) -> pl.LazyFrame:
    """Return a lazy frame of Parquet files, local or in S3. `options` are arguments of `polars.scan_parquet`."""
    return pl.scan_parquet(
        [str(path) for path in found],
        glob=False,
        hive_partitioning=False,
        storage_options=scan_options() if any(isinstance(path, S3Path) for path in found) else None,
        **options,
    )


def collect(run: str | StoragePath, rows: pl.LazyFrame) -> pl.DataFrame:
    """Return the result of the query `rows` on the rows of `run`. Raises StudyError if a part cannot be read."""
    with integrity.reading(run):
        return rows.collect()


def done(run: str | StoragePath) -> dict[str, set[str]]:
    """Return the targets that have rows, by the id of the unit (one attack run on one shard of images).

    The rows are the only record of finished work.
    """
    finished: dict[str, set[str]] = defaultdict(set)
    for unit, target in collect(run, scan(run).select("unit", "target").unique()).iter_rows():
        finished[unit].add(target)
    return finished


def rmsd_by_image(run: str | StoragePath, crafts: Iterable[str]) -> dict[str, dict[str, float]]:
    """Return the RMSD after the last step, in pixel values 0..255, by craft (attack run) and then by image.

    `crafts` are ids of attack runs. Images without rows are left out.
    """
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
