"""The place of an image: a file, a row of a Parquet file, or a record of a data set.

Objects for places are small and can be pickled.
"""

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
"""The accepted image formats, by Pillow's names. The suffix of a file is ignored.

Other formats start programs when they are opened (EPS), or are rare.
"""

IMAGE_COLUMNS = ("image", "img")
"""The names that the column of encoded images in a Parquet file may have. Its type is binary or struct{bytes, path}."""


@dataclass(frozen=True)
class FileImage:
    """An image file."""

    path: Path

    def open(self) -> Image.Image:
        """Open the image. Pillow decodes it at the first access to its pixels. Raises Pillow's exceptions."""
        return _opened(self.path)

    def encoded(self) -> bytes:
        """Return the bytes of the file, which `file_digest` hashes."""
        return self.path.read_bytes()

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class ParquetImage:
    """An encoded image in a row of a Parquet file. Rows count from 0."""

    path: Path
    row: int

    def open(self) -> Image.Image:
        """Open the image.

        Pillow decodes it at the first access to its pixels. Raises Pillow's and pyarrow's exceptions.
        """
        return _opened(io.BytesIO(self.encoded()))

    def encoded(self) -> bytes:
        """Return the encoded bytes in this row, which `file_digest` hashes.

        Raises OSError if the file has no column of images, or no bytes in this row, and pyarrow's exceptions.
        """
        stat = os.stat(self.path)
        column, starts = _layout(self.path, stat.st_mtime_ns, stat.st_size)
        group = sum(start <= self.row for start in starts) - 1
        cells, place = _column(self.path, stat.st_mtime_ns, stat.st_size, column, group), self.row - starts[group]
        if place >= len(cells):
            raise OSError("the file has fewer rows")
        cell = cells[place].as_py()
        found = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(found, bytes):
            raise OSError("this row has no bytes")
        return found

    def __str__(self) -> str:
        return f"{self.path}, row {self.row}"


@dataclass(frozen=True)
class RecordImage:
    """An image in a split of a data set that has its own binary format. Images count from 0."""

    folder: Path
    split: str
    index: int

    def open(self) -> Image.Image:
        """Return the image, greyscale or RGB. Raises the errors of `encoded`."""
        from PIL import Image

        pixels = self._pixels()
        return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0).copy())

    def encoded(self) -> bytes:
        """Return the bytes that `file_digest` hashes: the pixels, one channel after the other.

        Raises StudyError if the records cannot be read, and OSError if the split has no image of this number.
        """
        return self._pixels().tobytes()

    def _pixels(self) -> NDArray[np.uint8]:
        from study.images import records

        images = records.read(self.folder, self.split)[0]
        if self.index >= len(images):
            raise OSError("the split has fewer images")
        pixels: NDArray[np.uint8] = images[self.index]
        return pixels

    def __str__(self) -> str:
        return f"{self.folder}, {self.split} image {self.index}"


def _opened(file: Path | io.BytesIO) -> Image.Image:
    from PIL import Image

    return Image.open(file, formats=FORMATS)


Stored = FileImage | ParquetImage | RecordImage


class Listed(NamedTuple):
    """An entry in the list of an image set: the image's id, its place, its true label, and its target label or None."""

    image: str
    file: Stored
    label: int
    target: int | None = None


def file_digest(stored: Stored) -> str:
    """Return the SHA-256, in hexadecimal digits, of an image's encoded bytes. For a record, its pixels are hashed.

    Raises StudyError, which names the image, if the image cannot be read.
    """
    try:
        return hashlib.sha256(stored.encoded()).hexdigest()
    except (OSError, ValueError) as error:
        raise StudyError(
            f"the image {stored} cannot be read: {getattr(error, 'strerror', None) or error}",
            todo="restore the file, or remove it from the image set",
        ) from None


# A clean pass reads rows in the order of a hash, and a shard reads rows in the order of ids, so a cache of a few row
# groups saves reading. A larger cache could exceed the memory: a whole file may be a single row group.
@functools.lru_cache(maxsize=4)
def _column(path: Path, changed: int, size: int, column: str, group: int) -> Any:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return file.read_row_group(group, columns=[column]).column(0)


@functools.lru_cache(maxsize=1024)
def _layout(path: Path, changed: int, size: int) -> tuple[str, tuple[int, ...]]:
    """Return the name of the column of images, and the number of the first row of every row group.

    `changed` and `size` are the time of the last change and the size of the file, so that the cache notices a new file.
    Raises OSError if the file has no column of images.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        column = next((name for name in IMAGE_COLUMNS if name in file.schema_arrow.names), None)
        if column is None:
            raise OSError(f"it has no column {' or '.join(f'`{name}`' for name in IMAGE_COLUMNS)}")
        starts = [0]
        for group in range(file.metadata.num_row_groups - 1):
            starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
    return column, tuple(starts)
