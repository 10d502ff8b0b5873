"""Writes rows as Parquet parts, which are the only record of finished work."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from study.results import versions
from study.results.schema import SCHEMA_VERSION, UnitResult, table
from study.storage import part_file
from study.storage.paths import StoragePath
from study.storage.run_folder import RunFolder

_MAX_ROWS = 50_000


class Writer:
    """A buffer for the rows of finished units (one attack run on one shard of images each).

    The buffered rows are published as one part every few seconds, or as soon as there are `_MAX_ROWS` rows. The rows
    that one call adds are in the same part. If the process dies, unpublished rows are lost, and the next launch runs
    their units again.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        flush_seconds: float,
        metadata: Mapping[str, str],
        into: StoragePath | None = None,
        version: int = SCHEMA_VERSION,
    ) -> None:
        """`into`: the existing folder for the parts; None for `results/`. `version`: the version of the rows' columns.

        `metadata`: everything outside the spec that affects the rows. The caller may extend this mapping during a run,
        when workers on other machines join. Each part gets the content that the mapping has when the part is written.
        """
        self.folder = folder
        self._into = folder.results if into is None else into
        self._version = version
        self._flush_seconds = flush_seconds
        self._metadata = metadata
        self._buffer: list[pa.Table] = []
        self._results: list[UnitResult] = []
        self._rows = 0
        self._pending: tuple[str, memoryview] | None = None
        self._flushed = time.monotonic()

    def add(self, rows: pa.Table) -> None:
        """Add the rows of one unit to the buffer. Publish the buffer if it is full."""
        self._buffer.append(rows)
        self._rows += rows.num_rows
        if self._rows >= _MAX_ROWS:
            self.flush()

    def add_result(self, result: UnitResult) -> None:
        """Add the result of one unit. Publish the buffer if it is full.

        The rows of all results are made at once when the buffer is published, because this is faster.
        """
        self._results.append(result)
        self._rows += result.rows
        if self._rows >= _MAX_ROWS:
            self.flush()

    def tick(self) -> None:
        """Publish the buffer if the last flush was at least `flush_seconds` ago. Call this method often."""
        if time.monotonic() - self._flushed >= self._flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Publish the buffer as one part. Raises StudyError if the part cannot be written; the rows are then kept.

        The next call writes a failed part again, under the same name. So rows are not duplicated if the failed call has
        in fact written the part.
        """
        self._publish()
        if self._results:
            self._buffer.append(table(self._results))
            self._results = []
        if self._buffer:
            metadata = {key.encode(): value.encode() for key, value in self._metadata.items()}
            content = encode_part(pa.concat_tables(self._buffer), metadata, self._version)
            self._pending = (part_file.new_name(content, self._version), content)
            self._buffer, self._rows = [], 0
            self._publish()
        self._flushed = time.monotonic()

    def _publish(self) -> None:
        if self._pending is not None:
            name, content = self._pending
            self.folder.publish_new(self._into / name, content)
            self._pending = None


def encode_part(rows: pa.Table, metadata: Mapping[bytes, bytes], version: int = SCHEMA_VERSION) -> memoryview:
    """Return the content of a part (Parquet file) with `rows`, in row groups of at most 100,000 rows.

    Its Parquet metadata are `metadata` and the version of the columns.
    """
    sink = pa.BufferOutputStream()
    full = {**metadata, versions.METADATA: str(version).encode()}
    pq.write_table(rows.replace_schema_metadata(full), sink, compression="zstd", row_group_size=100_000)
    return memoryview(sink.getvalue())
