"""Writes and reads the adversarial images that a run keeps: Parquet parts in the run's folder `kept/`.

Each image is stored as its difference from the clean image, modulo 256: `adversarial = (clean + delta) % 256`. With
zstd, the differences need half the space of PNGs, and are written in a tenth of the time.

The images of a unit (one attack run on one shard of images) are published before the rows of the unit. So every unit
whose rows a launch writes while it keeps images also has its images. A launch may die after it has published the
images, but before it publishes the rows. Then the next launch reads the images, and its targets predict them again.
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
from study.results import integrity
from study.results.scanning import collect, scan, scan_files
from study.results.schema import VISIBLE, PixelDistances, nullable
from study.results.writer import Writer
from study.storage import part_file
from study.storage.paths import StoragePath
from study.storage.run_folder import RunFolder

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
    pa.field("ssim", pa.float64()),
    pa.field("ciede2000", pa.float64()),
    pa.field("lpips", pa.float64()),
    pa.field("gradients", pa.int32()),
    pa.field("delta", pa.binary(), nullable=False),
]
SCHEMA = pa.schema(_FIELDS)
"""The columns of a part of kept images: one row per image and point of an attack.

A point is a number of steps and a budget at which targets predict the images. The column `point` is its index in the
attack run's list of points. `delta`: the bytes of a `uint8` array (channels, size, size) in C order. `gradients`: the
number of gradients of this image, if a worker counted them; null if the number follows from the recipe.

Parts of version 1 lack `ssim`, `ciede2000` and `lpips`. Parts of version 2 lack `lpips`. Parts before version 4 lack
`gradients`.
"""

_DELTAS = {"craft": pl.String, "image": pl.String, "point": pl.Int32, "delta": pl.Binary}
_MAX_BYTES = 32 * 2**20
_ROW_GROUP = 64
_VERSION = 4
Pixels = NDArray[np.uint8]


class KeepingWriter(Writer):
    """A writer that publishes the images of each unit (one attack run on one shard) before the unit's rows."""

    def __init__(self, folder: RunFolder, *, flush_seconds: float, metadata: Mapping[str, str]) -> None:
        super().__init__(folder, flush_seconds=flush_seconds, metadata=metadata)
        self._images: list[pa.Table] = []
        self._image_bytes = 0
        self._pending_images: tuple[str, memoryview] | None = None
        folder.make_folder(folder.kept)

    @property
    def waiting_bytes(self) -> int:
        """The size in bytes of the unpublished images."""
        return self._image_bytes

    def keep(self, unit: Unit, distances: PixelDistances, clean: Pixels, adversarial: Pixels) -> None:
        """Add the adversarial images of a unit to the buffer. The buffer is published when it is full or flushed.

        A unit has N clean images and an attack with V points (pairs of a number of steps and a budget).
        `adversarial`: `uint8` (V * N, C, H, W), the N images at the first point, then at the second, and so on.
        `clean`: the clean images, `uint8` (N, C, H, W). `distances`: the distances of the V * N images to the clean
        images.
        """
        count, points = len(unit.shard.images), unit.craft.points
        delta = (adversarial.reshape(len(points), *clean.shape) - clean).reshape(len(points) * count, -1)
        variants = [(index, steps, budget) for index, (steps, budget) in enumerate(points) for _ in range(count)]
        columns = {
            "craft": [unit.craft.id] * len(variants),
            "unit": [unit.id] * len(variants),
            "image": [selected.image for selected in unit.shard.images] * len(points),
            "point": [index for index, _, _ in variants],
            "steps": [steps for _, steps, _ in variants],
            "budget": [budget for _, _, budget in variants],
            "rmsd": distances.rmsd,
            "linf": distances.linf,
            "l2": distances.l2,
            **{
                name: pa.nulls(len(variants), pa.float64()) if values is None else nullable(values)
                for name, values in distances.visible.items()
            },
            "gradients": [distances.gradients] * len(variants),
            "delta": [image.tobytes() for image in delta],
        }
        self._images.append(pa.table(columns, schema=SCHEMA))
        self._image_bytes += delta.nbytes
        if self._image_bytes >= _MAX_BYTES:
            self._flush_images()

    def flush(self) -> None:
        """Publish the buffered images, then the buffered rows.

        Raises StudyError if a part cannot be written. The images and rows that are not written stay in the buffer.
        """
        self._flush_images()
        super().flush()

    def _flush_images(self) -> None:
        self._publish_images()
        if self._images:
            content = encode_images(pa.concat_tables(self._images))
            self._pending_images = (part_file.new_name(content, _VERSION), content)
            self._images, self._image_bytes = [], 0
            self._publish_images()

    def _publish_images(self) -> None:
        if self._pending_images is not None:
            name, content = self._pending_images
            self.folder.publish_new(self.folder.kept / name, content)
            self._pending_images = None


def encode_images(images: pa.Table) -> memoryview:
    """Return the content of a part with the rows `images`, which have the columns of `SCHEMA`."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        images,
        sink,
        compression="zstd",
        compression_level=1,
        use_dictionary=False,
        write_statistics=[name for name in SCHEMA.names if name != "delta"],
        row_group_size=_ROW_GROUP,
    )
    return memoryview(sink.getvalue())


class KeptImages:
    """A reader of the images that a run keeps.

    Its methods raise StudyError if a part is damaged, or does not fit the images that the run has selected.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._intact: set[str] = set()
        self._part: dict[str, StoragePath] = {}
        self.crafts: set[str] = set()
        for part in _parts(folder):
            for unit, craft in _read(part, pl.col("unit"), pl.col("craft")).unique().iter_rows():
                self._part[unit] = part
                self.crafts.add(craft)

    def __contains__(self, unit: str) -> bool:
        return unit in self._part

    @property
    def units(self) -> set[str]:
        """The ids of the units that have images."""
        return set(self._part)

    def load(self, unit: Unit, clean: Pixels) -> tuple[PixelDistances, Pixels]:
        """Return the kept images of a unit, `uint8` (V * N, C, H, W), and their distances to the clean images.

        A unit has N clean images and an attack with V points (pairs of a number of steps and a budget). The N images at
        the first point come first. `clean`: the clean images, `uint8` (N, C, H, W).
        """
        part = self._part[unit.id]
        if str(part) not in self._intact:
            _require_intact(part)
            self._intact.add(str(part))
        found = _read(part, pl.all(), where=pl.col("unit") == unit.id).sort("point", maintain_order=True)
        images, points = [selected.image for selected in unit.shard.images], unit.craft.points
        if found["image"].to_list() != images * len(points):
            raise _damaged(part, f"unit {unit.id} has other images than the selected ones")
        rmsd, linf, l2 = (found[name].to_numpy() for name in ("rmsd", "linf", "l2"))
        seen: dict[str, Any] = {
            name: found[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()
            for name in VISIBLE
            if name in found.columns
        }
        distances = PixelDistances(rmsd, linf, l2, **seen, gradients=self._gradients(unit, found))
        flat = b"".join(found["delta"].to_list())
        if len(flat) != clean.nbytes * len(points):
            raise _damaged(part, f"the images of unit {unit.id} have the wrong size")
        delta = np.frombuffer(flat, dtype=np.uint8).reshape(len(points), *clean.shape)
        return distances, (delta + clean).reshape(len(points) * len(images), *clean.shape[1:])

    def _gradients(self, unit: Unit, images: pl.DataFrame) -> int | None:
        """The number of gradients of one image, if a worker counted it."""
        if "gradients" in images.columns or unit.craft.recipe.external is None:
            return images["gradients"][0] if "gradients" in images.columns else None
        # An older version of study kept these images without the number. It wrote the number in the unit's rows.
        rows = scan(self._folder.path).filter(pl.col("unit") == unit.id).select("gradients").head(1)
        counted = collect(self._folder.path, rows)
        if counted.is_empty():
            raise StudyError(
                f"this file has the images of unit {unit.id}, but their number of gradients is unknown: an older "
                "version of study wrote the file, and no rows of the unit exist",
                where=str(self._part[unit.id]),
                todo="move this file out of the folder; the next launch makes its images again",
            )
        return int(counted["gradients"][0])


def kept_pairs(folder: RunFolder) -> pl.DataFrame:
    """Return the distinct pairs of `craft` (id of the attack run) and `image` (id of the image) that a run keeps."""
    found = [_read(part, pl.col("craft"), pl.col("image")).unique() for part in _parts(folder)]
    return pl.concat([pl.DataFrame(schema={"craft": pl.String, "image": pl.String}), *found]).unique()


def deltas(folder: RunFolder, crafts: Sequence[str], images: Sequence[str], point: int | None = None) -> pl.DataFrame:
    """Return the kept images of some attack runs, as differences from the clean images.

    `crafts`: the ids of the attack runs. `images`: the ids of the images. `point`: the index of one point of the attack
    (a number of steps and a budget); None for all points. The columns are `craft`, `image`, `point` and `delta`; the
    rows are sorted by the first three. If several parts have the same image, it has several rows with equal pixels.
    Raises StudyError if a part with some of these images is damaged.
    """
    where = pl.col("craft").is_in(list(crafts)) & pl.col("image").is_in(list(images))
    where = where if point is None else where & (pl.col("point") == point)
    found = []
    for part in _parts(folder):
        rows = _read(part, *map(pl.col, _DELTAS), where=where)
        if rows.height:
            _require_intact(part)
            found.append(rows)
    return pl.concat(found).sort("craft", "image", "point") if found else pl.DataFrame(schema=_DELTAS)


def units_in(part: StoragePath) -> list[str]:
    """Return the ids of the units in a damaged part of kept images.

    The rows of these units may come from damaged images. If the part cannot be read, return an empty list, because no
    launch can have used its images.
    """
    try:
        return scan_files([part]).select(pl.col("unit").unique().sort()).collect()["unit"].to_list()
    except integrity.READ_ERRORS:
        return []


def _parts(folder: RunFolder) -> list[StoragePath]:
    return part_file.list_parts(folder.kept)


def _require_intact(part: StoragePath) -> None:
    damage = part_file.damage(part)
    if damage is not None:
        raise _damaged(part, damage)


def _read(part: StoragePath, *columns: pl.Expr, where: pl.Expr | None = None) -> pl.DataFrame:
    rows = scan_files([part]) if where is None else scan_files([part]).filter(where)
    try:
        return rows.select(*columns).collect()
    except integrity.READ_ERRORS as error:
        raise _damaged(part, first_line(error)) from None


def _damaged(part: StoragePath, problem: str) -> StudyError:
    return StudyError(
        f"the kept images in {part.name} are damaged: {problem}",
        where=str(part),
        todo=integrity.advice("kept"),
        status=1,
    )
