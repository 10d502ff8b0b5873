"""Reads clean images from their files, checks them, and puts them where workers can read them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from actors.backends.interface import Backend, Ref
from actors.resources.object_store import PixelBudgets, pixel_budgets
from study.errors import StudyError
from study.images import decoding
from study.images.image_sets import ImageSet as Prepared
from study.images.location import Stored
from study.images.selection import Selected, Shard
from study.planning.plan import Plan, Unit
from study.process.threads import in_threads, threads_here


class Images(Protocol):
    """The source of clean images."""

    def of(self, unit: Unit, pool: Sequence[Selected]) -> Ref:
        """Return the reference to the clean images of a unit, followed by the images of `pool`.

        The attack mixes the images of the pool into the others. For an attack with precomputed images, the adversarial
        images follow instead of the pool.
        """

    def some(self, shard: Shard) -> Ref:
        """Return the reference to the images of `shard`, which may be only a part of a shard of the plan."""

    def pixels(self, shard: Shard) -> NDArray[np.uint8]:
        """Return the images of a shard, read-only `uint8` (N, C, H, W), for the driver itself."""


class CleanImages:
    """Reads clean images when the first unit that needs them starts, and checks their digests.

    Shards (groups of images) stay in memory within the limit `run.clean_mib`. The least recently used shard is dropped
    first. It is read again when a unit needs it.
    """

    def __init__(
        self, plan: Plan, files: Mapping[str, Stored], backend: Backend, budgets: PixelBudgets | None = None
    ) -> None:
        """`files`: the file of each image, by image id. `budgets`: limits for pixels; None for those of the spec."""
        self._images = plan.spec.images
        self._files = files
        self._backend = backend
        self._most_bytes = (budgets or pixel_budgets(plan.spec)).clean
        self._largest = max(len(shard.images) for shard in plan.shards) * self._images.bytes
        self._held: OrderedDict[tuple[object, ...], Ref] = OrderedDict()
        self._pooled: dict[str, NDArray[np.uint8]] = {}

    def of(self, unit: Unit, pool: Sequence[Selected]) -> Ref:
        made = unit.craft.precomputed
        if made is None:
            return self._shard(unit.shard, pool, (unit.shard.index, len(pool)))
        exact = self._images.model_copy(update={"fit": "exact"})
        files = [(made[one.image], exact) for one in unit.shard.images]
        adversarial = in_threads(decoding.read, files, threads_here())
        return self._backend.put(np.stack([*self._read_all(unit.shard), *adversarial]))

    def pixels(self, shard: Shard) -> NDArray[np.uint8]:
        return self._backend.pixels(self._shard(shard, (), (shard.index, 0)))

    def some(self, shard: Shard) -> Ref:
        return self._shard(shard, (), tuple(one.image for one in shard.images))

    def _shard(self, shard: Shard, pool: Sequence[Selected], key: tuple[object, ...]) -> Ref:
        if key not in self._held:
            for one in pool:
                if one.image not in self._pooled:
                    self._pooled[one.image] = self._read(one)
            own = self._read_all(shard)
            self._held[key] = self._backend.put(np.stack([*own, *(self._pooled[one.image] for one in pool)]))
            size = self._largest + len(pool) * self._images.bytes
            while len(self._held) > max(1, self._most_bytes // size):
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        return self._held[key]

    def _read_all(self, shard: Shard) -> list[NDArray[np.uint8]]:
        return in_threads(self._read, [(one,) for one in shard.images], threads_here())

    def _read(self, image: Selected) -> NDArray[np.uint8]:
        return unchanged(image, self._files[image.image], self._images)


def unchanged(image: Selected, file: Stored, images: Prepared) -> NDArray[np.uint8]:
    """Read and return a selected image, `uint8` (C, H, W).

    Raises StudyError if its pixels have changed since it was selected.
    """
    read = decoding.read(file, images)
    if decoding.digest(read) != image.digest:
        raise StudyError(
            f"the image {file} has changed since the study began",
            todo="restore the old file, or launch into a new folder with --output",
        )
    return read
