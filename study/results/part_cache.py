"""Rows of very many parts, read once: to open a part costs more than its rows, and a report asks many times."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from pathlib import Path

import polars as pl

from study.results import parts as store
from study.storage.places import Place

_MANY = 500
"""Up to so many parts are scanned where they lie, by every question: there opening them takes well under a second."""


def scan(run: str | Place) -> pl.LazyFrame:
    """What `store.scan` gives. Where there are very many parts, their rows are put into one temporary file first, as a
    stream, which is there until this process ends; where that cannot be written, they are scanned where they lie."""
    found = store.parts(run)
    if len(found) <= _MANY:
        return store.scan(run)
    return _gathered(str(run), tuple(part.name for part in found))


@functools.cache
def _gathered(run: str, names: tuple[str, ...]) -> pl.LazyFrame:
    rows = store.scan(run)
    with contextlib.suppress(OSError):
        file = Path(_folder().name) / f"rows-{abs(hash((run, names))):x}.parquet"
        rows.sink_parquet(file, compression="lz4")
        return pl.scan_parquet(file, glob=False)
    return rows


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Removed with the process."""
    return tempfile.TemporaryDirectory(prefix="study-")
