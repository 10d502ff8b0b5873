"""The place of an image: a file, a row of a Parquet file, or a record of a data set. Places are small and picklable."""

from __future__ import annotations

import functools
import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from study.errors import StudyError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""Accepted formats by Pillow's names; a file's suffix is ignored. Other formats start programs (EPS) or are rare."""

IMAGE_COLUMNS = ("image", "img")
"""Names of the column of encoded images in a Parquet file, binary or struct{bytes, path}."""


@dataclass(frozen=True)
class FileImage:
    """An image file."""

    path: Path

    def open(self) -> Image.Image:
        """Open the image; Pillow decodes it on first access to its pixels. Raises Pillow's exceptions."""
        return _opened(self.path)

    def encoded(self) -> bytes:
        """The bytes that `file_digest` hashes."""
        return self.path.read_bytes()

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class ParquetImage:
    """An encoded image in a row of a Parquet file; rows count from 0."""

    path: Path
    row: int

    def open(self) -> Image.Image:
        """Open the image; Pillow decodes it on first access to its pixels. Raises Pillow's and pyarrow's exceptions."""
        return _opened(io.BytesIO(self.encoded()))

    def encoded(self) -> bytes:
        """The bytes that `file_digest` hashes."""
        stat = os.stat(self.path)
        column, starts = _layout(self.path, stat.st_mtime_ns, stat.st_size)
        group = sum(start <= self.row for start in starts) - 1
        cell = _column(self.path, stat.st_mtime_ns, stat.st_size, column, group)[self.row - starts[group]].as_py()
        found = cell.get("bytes") if isinstance(cell, dict) else cell
        if found is None:
            raise OSError("this row has no bytes")
        return bytes(found)

    def __str__(self) -> str:
        return f"{self.path}, row {self.row}"


@dataclass(frozen=True)
class RecordImage:
    """An image in a split of a data set in its own binary format; images count from 0."""

    folder: Path
    split: str
    index: int

    def open(self) -> Image.Image:
        """Return the image, greyscale or RGB. Raises StudyError if the records cannot be read."""
        from PIL import Image

        pixels = self._pixels()
        return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0).copy())

    def encoded(self) -> bytes:
        """The bytes that `file_digest` hashes: the pixels, channel by channel."""
        return self._pixels().tobytes()

    def _pixels(self) -> NDArray[np.uint8]:
        from study.images import records

        pixels: NDArray[np.uint8] = records.read(self.folder, self.split)[0][self.index]
        return pixels

    def __str__(self) -> str:
        return f"{self.folder}, {self.split} image {self.index}"


def _opened(file: Path | io.BytesIO) -> Image.Image:
    from PIL import Image

    return Image.open(file, formats=FORMATS)


Stored = FileImage | ParquetImage | RecordImage


class Listed(NamedTuple):
    """An image in the list of its set: its id in the study, its place, its label, and its target label or None."""

    image: str
    file: Stored
    label: int
    target: int | None = None


def file_digest(stored: Stored) -> str:
    """Return the hexadecimal SHA-256 of an image's encoded bytes or, for records, of its pixels.

    Raises StudyError, which names the image, if the image cannot be read.
    """
    try:
        return hashlib.sha256(stored.encoded()).hexdigest()
    except (OSError, ValueError) as error:
        raise StudyError(
            f"the image {stored} cannot be read: {getattr(error, 'strerror', None) or error}",
            todo="restore the file, or remove it from the image set",
        ) from None


# A clean pass reads rows in the order of a hash, and a shard reads them in the order of ids, so a cache of a few row
# groups helps. A larger cache could exceed the memory: a whole file may be a single row group.
@functools.lru_cache(maxsize=4)
def _column(path: Path, changed: int, size: int, column: str, group: int) -> Any:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return file.read_row_group(group, columns=[column]).column(0)


@functools.lru_cache(maxsize=1024)
def _layout(path: Path, changed: int, size: int) -> tuple[str, tuple[int, ...]]:
    """The name of the column of images, and the first row of every row group."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        column = next(name for name in IMAGE_COLUMNS if name in file.schema_arrow.names)
        starts = [0]
        for group in range(file.metadata.num_row_groups - 1):
            starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
    return column, tuple(starts)
