"""A probe's rows in a run: where they lie, which units are done, a scan of them."""

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
    """What publishes the rows of probe `name`, into a folder of its own."""
    into = folder.geometry(name)
    folder.make_folder(into)
    return Writer(folder, flush_seconds=flush_seconds, metadata=metadata, into=into, version=VERSION)


def scan(run: str | StoragePath, name: str, kind: Kind) -> pl.LazyFrame:
    """All rows of probe `name`, of which `kind` it is; an empty frame where it has none yet."""
    folder = RunFolder(run)
    found = part_file.list_parts(folder.geometry(name))
    schema = pl.DataFrame(pa.Table.from_batches([], schema=SCHEMAS[kind])).schema
    if not found:
        return pl.LazyFrame(schema=schema)
    return scan_files(found, schema=schema)


def done(run: str | StoragePath, probes: Mapping[str, Probe]) -> dict[str, set[str]]:
    """The ids of finished units by the name of their probe: read from the parts and from nowhere else."""
    return {
        name: set(collect(run, scan(run, name, probe.probe).select("unit").unique())["unit"])
        for name, probe in probes.items()
    }
