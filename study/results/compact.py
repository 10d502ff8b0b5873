"""Compaction: replaces many parts (Parquet files of rows) by few parts with the same rows.

The new parts are sorted by craft (attack run), so that a query on few crafts reads little. If the process dies during
a compaction, the journal says which parts count: the old ones or the new ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from study.errors import StudyError
from study.results import integrity, versions
from study.results.scanning import collect, parts, scan_versions
from study.results.schema import SCHEMA, SCHEMA_VERSION
from study.results.writer import encode_part
from study.storage import part_file
from study.storage.journal import Journal, repair
from study.storage.paths import StoragePath
from study.storage.run_folder import RunFolder

_ROWS_PER_PART = 1_000_000
_ORDER = ("craft", "unit", "target", "steps", "budget", "image")

Metadata = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True)
class Compaction:
    """The result of a compaction: the number of parts before and after, and the number of rows in all parts."""

    before: int
    after: int
    rows: int


@dataclass(frozen=True)
class _NewPart:
    """One new part to write. It gets all rows of the given units.

    A unit is one attack run on one shard of images. The rows come from the parts `old`, which all have the Parquet
    metadata `metadata`. `rows` is the number of rows.
    """

    run: StoragePath
    old: Sequence[StoragePath]
    metadata: Metadata
    units: Sequence[str]
    rows: int

    def content(self) -> memoryview:
        """Return the content of the Parquet file. Every call returns the same bytes.

        Raises StudyError if the number of rows differs from `rows`.
        """
        selected = scan_versions(self.run, self.old).filter(pl.col("unit").is_in(self.units)).sort(_ORDER)
        found = collect(self.run, selected)
        if found.height != self.rows:
            raise StudyError(f"{self.run}: {found.height} rows were read, but {self.rows} were counted", status=1)
        return encode_part(found.to_arrow().cast(SCHEMA), dict(self.metadata))


def compact(folder: RunFolder, rows_per_part: int = _ROWS_PER_PART) -> Compaction:
    """Rewrite the parts of a run into parts of about `rows_per_part` rows, without splitting a unit.

    A unit is one attack run on one shard of images. If the new parts would not be fewer and all old parts have the
    present version, nothing is written. The caller must hold the lease of the run.

    Order of writing: stage the new parts, write the journal, commit the new parts, remove the old parts. A new part
    has the Parquet metadata of the old parts that its rows come from.

    Raises StudyError if a part cannot be read or written, or if a part is damaged. A damaged part must not be
    rewritten: the new part would have a valid digest, which would hide the damage.
    """
    damaged = integrity.damaged(folder, "results")
    if damaged:
        raise integrity.damage_error(folder, damaged)
    old = parts(folder.path)
    new = list(_new_parts(folder.path, old, rows_per_part))
    rows = sum(part.rows for part in new)
    if len(new) >= len(old) and all(_is_present(part) for part in old):
        return Compaction(len(old), len(old), rows)
    paths = []
    for part in new:
        content = part.content()
        paths.append(folder.results / part_file.new_name(content, SCHEMA_VERSION))
        folder.storage.stage(paths[-1], content)
    journal = Journal(tuple(part.name for part in old), tuple(path.name for path in paths))
    folder.write_text(folder.journal, journal.text())
    for path, part in zip(paths, new, strict=True):
        # The S3 storage cannot stage content, so it calls `part.content` again here. So memory never holds more than
        # one part.
        folder.storage.commit(path, part.content)
    repair(folder.path, folder.storage)
    return Compaction(len(old), len(new), rows)


def _is_present(part: StoragePath) -> bool:
    name = part_file.parse_name(part.name)
    return name is not None and name.version == SCHEMA_VERSION


def _new_parts(run: StoragePath, old: Sequence[StoragePath], rows_per_part: int) -> Iterator[_NewPart]:
    """Yield the new parts. Each gets units from old parts with equal metadata, sorted by craft (attack run)."""
    for metadata, same in _by_metadata(old).items():
        counts = collect(run, scan_versions(run, same).group_by("craft", "unit").len().sort("craft", "unit"))
        units: list[str] = []
        rows = 0
        for _, unit, count in counts.iter_rows():
            if units and rows + count > rows_per_part:
                yield _NewPart(run, same, metadata, units, rows)
                units, rows = [], 0
            units.append(unit)
            rows += count
        if units:
            yield _NewPart(run, same, metadata, units, rows)


def _by_metadata(old: Sequence[StoragePath]) -> dict[Metadata, list[StoragePath]]:
    """Group parts by their Parquet metadata, because all rows of a part must have the same provenance.

    The schema version and Arrow's copy of the schema are left out of the metadata.
    """
    groups: dict[Metadata, list[StoragePath]] = {}
    for part in old:
        found = pq.read_schema(pa.BufferReader(part.read_bytes())).metadata or {}
        ours = {key: value for key, value in found.items() if key not in {versions.METADATA, b"ARROW:schema"}}
        groups.setdefault(tuple(sorted(ours.items())), []).append(part)
    return groups
