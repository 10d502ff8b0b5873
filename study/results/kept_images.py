"""Adversarial images that a run keeps: Parquet parts beside `results/`, published before the rows of their units.

Kept is how each image differs from its clean one, modulo 256: `adversarial = (clean + delta) % 256`. Under zstd that
takes half the room of PNGs and a tenth of their time. Rows imply images; images without rows are shown again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from study.errors import StudyError, first_line
from study.planning.plan import Unit
from study.results import integrity, versions
from study.results import parts as store
from study.results.schema import Distances
from study.storage.places import Place
from study.storage.run_folder import RunFolder
from study.storage.s3 import ObjectPath, scan_options

_FIELDS: list[pa.Field[Any]] = [
    pa.field("craft", pa.string(), nullable=False),
    pa.field("unit", pa.string(), nullable=False),
    pa.field("image", pa.string(), nullable=False),
    pa.field("point", pa.int32(), nullable=False),
    pa.field("steps", pa.int32(), nullable=False),
    pa.field("budget", pa.float64()),
    pa.field("rmsd", pa.float64(), nullable=False),
    pa.field("linf", pa.float64(), nullable=False),
    pa.field("l2", pa.float64(), nullable=False),
    pa.field("delta", pa.binary(), nullable=False),
]
SCHEMA = pa.schema(_FIELDS)
"""One row for each image and point of an attack. `delta` has the `uint8` of (channels, size, size) in C order."""

_OF_DELTAS = {"craft": pl.String, "image": pl.String, "point": pl.Int32, "delta": pl.Binary}
_MOST_BYTES = 32 * 2**20
_GROUP_ROWS = 64
_VERSION = 1
Pixels = NDArray[np.uint8]


class KeepingWriter(store.Writer):
    """A writer of rows that publishes the images of units before their rows."""

    def __init__(self, folder: RunFolder, *, flush_seconds: float, metadata: Mapping[str, str]) -> None:
        super().__init__(folder, flush_seconds=flush_seconds, metadata=metadata)
        self._images: list[pa.Table] = []
        self._image_bytes = 0
        self._ready: tuple[str, memoryview] | None = None
        folder.make(folder.kept)

    @property
    def waiting_bytes(self) -> int:
        """Of images that are not published yet."""
        return self._image_bytes

    def keep(self, unit: Unit, moved: Distances, clean: Pixels, adversarial: Pixels) -> None:
        """Take V variants of a unit's N images, `uint8` (V * N, C, H, W), and the clean ones (N, C, H, W)."""
        count, points = len(unit.shard.images), unit.craft.recipe.points
        delta = (adversarial.reshape(len(points), *clean.shape) - clean).reshape(len(points) * count, -1)
        shown = [(index, steps, level) for index, (steps, level) in enumerate(points) for _ in range(count)]
        columns = {
            "craft": [unit.craft.id] * len(shown),
            "unit": [unit.id] * len(shown),
            "image": [one.image for one in unit.shard.images] * len(points),
            "point": [index for index, _, _ in shown],
            "steps": [steps for _, steps, _ in shown],
            "budget": [level for _, _, level in shown],
            "rmsd": moved.rmsd,
            "linf": moved.linf,
            "l2": moved.l2,
            "delta": [one.tobytes() for one in delta],
        }
        self._images.append(pa.table(columns, schema=SCHEMA))
        self._image_bytes += delta.nbytes
        if self._image_bytes >= _MOST_BYTES:
            self._publish_images()

    def flush(self) -> None:
        """Publish images, then rows. Raises StudyError, and keeps both, where they cannot be written."""
        self._publish_images()
        super().flush()

    def _publish_images(self) -> None:
        self._publish_ready()
        if self._images:
            content = _encoded(pa.concat_tables(self._images))
            self._ready = (versions.new_name(content, _VERSION), content)
            self._images, self._image_bytes = [], 0
            self._publish_ready()

    def _publish_ready(self) -> None:
        if self._ready is not None:
            name, content = self._ready
            self._folder.publish_new(self._folder.kept / name, content)
            self._ready = None


def _encoded(images: pa.Table) -> memoryview:
    sink = pa.BufferOutputStream()
    small = [name for name in SCHEMA.names if name != "delta"]
    pq.write_table(
        images,
        sink,
        compression="zstd",
        compression_level=1,
        use_dictionary=False,
        write_statistics=small,
        row_group_size=_GROUP_ROWS,
    )
    return memoryview(sink.getvalue())


class Kept:
    """What a run has kept. StudyError where a part cannot be read, or its images are not those that were kept."""

    def __init__(self, folder: RunFolder) -> None:
        self._whole: set[str] = set()
        self._where: dict[str, Place] = {}
        self.crafts: set[str] = set()
        for part in parts(folder):
            for unit, craft in _read(part, pl.col("unit"), pl.col("craft")).unique().iter_rows():
                self._where[unit] = part
                self.crafts.add(craft)

    def __contains__(self, unit: str) -> bool:
        return unit in self._where

    @property
    def units(self) -> set[str]:
        """Ids of the units whose images are there."""
        return set(self._where)

    def of(self, unit: Unit, clean: Pixels) -> tuple[Distances, Pixels]:
        """How far the images of a unit moved, and they themselves, V variants of N, `uint8` (V * N, C, H, W).

        `clean` (N, C, H, W) are what they were made of.
        """
        part = self._where[unit.id]
        if str(part) not in self._whole:
            _must_be_whole(part)
            self._whole.add(str(part))
        found = _read(part, pl.all(), where=pl.col("unit") == unit.id).sort("point", maintain_order=True)
        images, points = [one.image for one in unit.shard.images], unit.craft.recipe.points
        if found["image"].to_list() != images * len(points):
            raise _damaged(part, f"unit {unit.id} has other images than were selected")
        moved = Distances(*(found[name].to_numpy() for name in ("rmsd", "linf", "l2")))
        flat = b"".join(found["delta"].to_list())
        if len(flat) != clean.nbytes * len(points):
            raise _damaged(part, f"unit {unit.id} has images of another size")
        delta = np.frombuffer(flat, dtype=np.uint8).reshape(len(points), *clean.shape)
        return moved, (delta + clean).reshape(len(points) * len(images), *clean.shape[1:])


def parts(folder: RunFolder) -> list[Place]:
    """The parts with images, by name; none where a run keeps none."""
    return integrity.parts(folder.kept)


def whose(folder: RunFolder) -> pl.DataFrame:
    """`craft` and `image` of everything that a run has kept, each once."""
    columns = (pl.col("craft"), pl.col("image"))
    found = [_read(part, *columns).unique() for part in parts(folder)]
    return pl.concat([pl.DataFrame(schema={"craft": pl.String, "image": pl.String}), *found]).unique()


def deltas(folder: RunFolder, crafts: Sequence[str], images: Sequence[str]) -> pl.DataFrame:
    """`craft`, `image`, `point` and `delta` of some images, sorted by the first three. StudyError where a part that has
    some of them is not as it was written. An image that is there twice is the same twice."""
    chosen = pl.col("craft").is_in(list(crafts)) & pl.col("image").is_in(list(images))
    columns = [pl.col(name) for name in ("craft", "image", "point", "delta")]
    found = []
    for part in parts(folder):
        rows = _read(part, *columns, where=chosen)
        if rows.height:
            _must_be_whole(part)
            found.append(rows)
    return pl.concat(found).sort("craft", "image", "point") if found else pl.DataFrame(schema=_OF_DELTAS)


def suspects(part: Place) -> list[str]:
    """The units whose rows may have been made from the images of a part that is damaged; none where it cannot be read:
    then no rows were."""
    try:
        return _scan(part).select(pl.col("unit").unique().sort()).collect()["unit"].to_list()
    except integrity.UNREADABLE:
        return []


def _must_be_whole(part: Place) -> None:
    what = integrity.wrong(part)
    if what is not None:
        raise _damaged(part, what)


def _scan(part: Place) -> pl.LazyFrame:
    options = scan_options() if isinstance(part, ObjectPath) else None
    return pl.scan_parquet(str(part), glob=False, hive_partitioning=False, storage_options=options)


def _read(part: Place, *columns: pl.Expr, where: pl.Expr | None = None) -> pl.DataFrame:
    rows = _scan(part) if where is None else _scan(part).filter(where)
    try:
        return rows.select(*columns).collect()
    except integrity.UNREADABLE as error:
        raise _damaged(part, first_line(error)) from None


def _damaged(part: Place, what: str) -> StudyError:
    return StudyError(
        f"the kept images in {part.name} are damaged: {what}",
        where=str(part),
        todo="look at the run with `study verify`, and do what it says: rows may have been made from them",
        status=1,
    )
