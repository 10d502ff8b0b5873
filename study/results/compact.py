"""Many parts into few: the same rows, sorted so that a query of few crafts reads little; safe to kill at any moment."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from study.errors import StudyError
from study.results import integrity, versions
from study.results import parts as store
from study.results.schema import SCHEMA, SCHEMA_VERSION
from study.storage.journal import JOURNAL, Journal, repair
from study.storage.places import Place
from study.storage.run_folder import RunFolder

_ROWS = 1_000_000
_ORDER = ("craft", "unit", "target", "steps", "budget", "image")

Metadata = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True)
class Compacted:
    """Parts before and after, and the rows in them."""

    before: int
    after: int
    rows: int


def compact(folder: RunFolder, most_rows: int = _ROWS) -> Compacted:
    """Put the parts of a run that is claimed into parts of about `most_rows` rows, by craft; a unit is never split.

    New parts are whole before a journal names old and new, the journal stands before new parts are in place, old ones
    go once all new ones are. Rows keep the metadata that they were written with. Raises StudyError where a part cannot
    be read or written, or is not as it was written: new digests are for rows that the old ones vouch for.
    """
    damaged = integrity.damaged(folder, "results")
    if damaged:
        raise integrity.refusal(folder, damaged)
    old = store.parts(folder.path)
    groups = _by_metadata(old)
    bundles = [
        (found, metadata, units, rows)
        for metadata, found in groups.items()
        for units, rows in _bundles(folder.path, found, most_rows)
    ]
    total = sum(rows for *_, rows in bundles)
    present = all(said is not None and said.version == SCHEMA_VERSION for said in map(_said, old))
    if len(bundles) >= len(old) and present:
        return Compacted(len(old), len(old), total)
    made: list[tuple[Place, int]] = []
    for number, (found, metadata, units, rows) in enumerate(bundles):
        content = _content(folder.path, found, metadata, units, rows)
        name = versions.new_name(content)
        folder.storage.prepare(folder.results / name, content)
        made.append((folder.results / name, number))
    journal = Journal(tuple(part.name for part in old), tuple(part.name for part, _ in made))
    folder.write_text(folder.path / JOURNAL, journal.text())
    for part, number in made:
        # Only an object store, which prepares nothing, asks for the content: one part at a time is held in memory.
        again = functools.partial(_content, folder.path, *bundles[number])
        folder.storage.finish(part, again)
    repair(folder.path, folder.storage)
    return Compacted(len(old), len(made), total)


def _said(part: Place) -> versions.Name | None:
    return versions.read_name(part.name)


def _by_metadata(parts: Sequence[Place]) -> dict[Metadata, list[Place]]:
    """Rows of different provenance stay apart, for a part has one."""
    groups: dict[Metadata, list[Place]] = {}
    for part in parts:
        found = pq.read_schema(pa.BufferReader(part.read_bytes())).metadata or {}
        ours = {key: value for key, value in found.items() if key not in {versions.METADATA, b"ARROW:schema"}}
        groups.setdefault(tuple(sorted(ours.items())), []).append(part)
    return groups


def _scan(parts: Sequence[Place], run: Place) -> pl.LazyFrame:
    by_version: dict[int, list[Place]] = {}
    for part in parts:
        by_version.setdefault(versions.version(part.name, run), []).append(part)
    return pl.concat(
        [store.graded(run, store.scan_parts(found, version), version) for version, found in sorted(by_version.items())]
    )


def _bundles(run: Place, parts: Sequence[Place], most_rows: int) -> Iterator[tuple[list[str], int]]:
    """Units that go into one part, in the order of their crafts, and how many rows they have."""
    counts = store.collect(run, _scan(parts, run).group_by("craft", "unit").len().sort("craft", "unit"))
    units: list[str] = []
    rows = 0
    for _, unit, count in counts.iter_rows():
        if units and rows + count > most_rows:
            yield units, rows
            units, rows = [], 0
        units.append(unit)
        rows += count
    if units:
        yield units, rows


def _content(run: Place, parts: Sequence[Place], metadata: Metadata, units: list[str], rows: int) -> memoryview:
    """The file of one new part; the same bytes whenever it is made."""
    found = store.collect(run, _scan(parts, run).filter(pl.col("unit").is_in(units)).sort(_ORDER))
    if found.height != rows:
        raise StudyError(f"{run}: {found.height} rows were read where {rows} were counted", status=1)
    columns: Mapping[bytes, bytes] = dict(metadata)
    return store.encoded(found.to_arrow().cast(SCHEMA), columns)
