"""A probe's rows in a run folder: their writer, a scan of them, and the ids of finished units."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
import pyarrow as pa

from study.geometry.schema import SCHEMAS, VERSION
from study.geometry.spec import Kind, Probe
from study.results import integrity
from study.results.parts import Writer, collect
from study.storage.places import Place
from study.storage.run_folder import RunFolder
from study.storage.s3 import ObjectPath, scan_options


def writer(folder: RunFolder, name: str, *, flush_seconds: float, metadata: Mapping[str, str]) -> Writer:
    """Return the writer of the rows of probe `name`, with a folder of its own."""
    into = folder.geometry(name)
    folder.make(into)
    return Writer(folder, flush_seconds=flush_seconds, metadata=metadata, into=into, version=VERSION)


def scan(run: str | Place, name: str, kind: Kind) -> pl.LazyFrame:
    """Return all rows of probe `name`, a probe of this `kind`; an empty frame if it has none."""
    folder = RunFolder(run)
    found = [str(part) for part in integrity.parts(folder.geometry(name))]
    schema = pl.DataFrame(pa.Table.from_batches([], schema=SCHEMAS[kind])).schema
    if not found:
        return pl.LazyFrame(schema=schema)
    remote = isinstance(folder.path, ObjectPath)
    options = scan_options() if remote else None
    return pl.scan_parquet(found, schema=schema, glob=False, hive_partitioning=False, storage_options=options)


def done(run: str | Place, probes: Mapping[str, Probe]) -> dict[str, set[str]]:
    """Return the ids of finished units, by the name of their probe, from the Parquet parts."""
    return {
        name: set(collect(run, scan(run, name, probe.probe).select("unit").unique())["unit"])
        for name, probe in probes.items()
    }
