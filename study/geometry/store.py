"""Writes and reads the rows of geometry probes in a run folder. Each probe has its own folder of Parquet parts."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
import pyarrow as pa

from study.geometry.schema import SCHEMAS, VERSION
from study.geometry.spec import Kind, Probe
from study.results.scanning import collect, scan_files
from study.results.writer import Writer
from study.storage import part_file
from study.storage.paths import StoragePath
from study.storage.run_folder import RunFolder


def writer(folder: RunFolder, name: str, *, flush_seconds: float, metadata: Mapping[str, str]) -> Writer:
    """Return a writer for the rows of probe `name`, and create the probe's folder if it does not exist."""
    into = folder.geometry(name)
    folder.make_folder(into)
    return Writer(folder, flush_seconds=flush_seconds, metadata=metadata, into=into, version=VERSION)


def scan(run: str | StoragePath, name: str, kind: Kind) -> pl.LazyFrame:
    """Return all rows of probe `name`, whose kind is `kind`, as a lazy frame. It is empty if the probe has no rows."""
    folder = RunFolder(run)
    found = part_file.list_parts(folder.geometry(name))
    schema = pl.DataFrame(pa.Table.from_batches([], schema=SCHEMAS[kind])).schema
    if not found:
        return pl.LazyFrame(schema=schema)
    return scan_files(found, schema=schema)


def done(run: str | StoragePath, probes: Mapping[str, Probe]) -> dict[str, set[str]]:
    """Return the ids of finished units, by the name of their probe. A unit is one probe on the images of one shard.

    The Parquet parts are the record of finished units.
    """
    return {
        name: set(collect(run, scan(run, name, probe.probe).select("unit").unique())["unit"])
        for name, probe in probes.items()
    }
