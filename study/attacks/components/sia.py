"""Structure invariant attack, SIA: copies of the image in which each block is changed at random."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from study.attacks.component import HeldMemory
from study.attacks.kinds import View, ViewContext
from study.attacks.registry import register
from study.attacks.resampling import cosine_transform, resized
from study.devices.copies import is_host, uploaded
from study.devices.tables import kept

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from study.attacks.blocks import BlockChange, Linear
    from study.attacks.blocks_together import Filtered, PixelChanges

Operation = Literal[
    "resize", "roll-rows", "roll-columns", "flip-rows", "flip-columns", "turn", "scale", "noise", "low-pass", "dropout"
]
_ALL: tuple[Operation, ...] = (
    "resize", "roll-rows", "roll-columns", "flip-rows", "flip-columns", "turn", "scale", "noise", "low-pass", "dropout"
)  # fmt: skip
_RESIZED, _CUT, _DROPPED = 0.8, 0.4, 0.1


@register
class StructureInvariance(View):
    """Structure invariant attack, SIA: a random grid cuts the image, and one of ten operations changes each block.

    Wang et al. 2023, arXiv:2309.14700, section 3.3 and figure 3. Each axis is cut at `grid` - 1 different random
    places. The ten operations are equally probable:

    - `resize`: resize to 0.8 of the block's size, plus one pixel; then resize back, and clip to 0..255;
    - `roll-rows`, `roll-columns`: roll the rows or the columns by a random number of pixels;
    - `flip-rows`, `flip-columns`: flip the rows or the columns;
    - `turn`: turn by 180 degrees;
    - `scale`: multiply by a random factor from U(0, 1);
    - `noise`: add noise from U(-`noise`, `noise`) to each pixel, in pixel values, and clip to 0..255;
    - `low-pass`: set the upper 0.4 of the frequencies of the cosine transform to 0, along both axes;
    - `dropout`: set each channel to 0 with probability 0.1, and divide the other channels by 0.9.

    Every image has its own grid and operations. The authors' code draws one grid and its operations for a whole batch.
    If 0.4 of a block's side is less than a pixel, `low-pass` sets the block to 0 in the authors' code, and does nothing
    here. TransferAttack has seven operations: all except `resize`, `low-pass` and `dropout`. To use only these seven,
    list them in `operations`.
    """

    name: ClassVar[str] = "sia"

    copies: Annotated[int, Field(ge=1, le=10_000)] = 20
    grid: Annotated[int, Field(ge=1, le=16)] = 3
    noise: Annotated[float, Field(ge=0, le=255)] = 16.0
    operations: Annotated[tuple[Operation, ...], Field(strict=False, min_length=1)] = _ALL

    @property
    def held_memory(self) -> HeldMemory:
        # On a GPU, `_matrices` keeps one S x S matrix for each of two filters and each length of a line from 0 to S.
        return HeldMemory(tables=2.1 if set(self.operations) & set(_FILTERS) else 0.0)

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        from study.attacks import blocks, blocks_together

        drawn = _Blocks(self, image, given)
        noise = None
        if drawn.have("noise"):
            noise = given.draws.uniform(image.shape[1:], "noise").mul_(self.noise)
        if is_host(image.device):
            return blocks.changed(image, list(drawn.changes(image, noise)))
        return blocks_together.changed(image, _Tables(drawn, image).changes(noise))


class _Blocks:
    """The random blocks of each image of a batch (N, C, H, W), with the operation of each block.

    Attributes:
        rows: The edges of the strips of rows, (N, grid + 1).
        columns: The edges of the strips of columns, (N, grid + 1).
        chosen: The names of the operations, (N, grid, grid).
        shares: Random numbers in 0..1 that set the distance of a roll, or the factor of a scaling, (N, grid, grid).
        factors: The factors by which the operations scale and dropout multiply each channel; 1 for all other
            operations, (N, C, grid, grid).
    """

    def __init__(self, view: StructureInvariance, image: Tensor, given: ViewContext) -> None:
        grid = view.grid
        words = given.draws.integers(2 * (grid - 1) + 2 * grid**2)
        down, across, chosen, shares = np.split(words, np.cumsum([grid - 1, grid - 1, grid**2]), axis=1)
        self.rows, self.columns = (
            np.array([_edges(one, size) for one in cuts.tolist()])
            for cuts, size in ((down, image.shape[2]), (across, image.shape[3]))
        )
        operations = np.array(view.operations)
        self.chosen = operations[chosen % np.uint64(len(operations))].reshape(-1, grid, grid)
        self.shares = (shares / 2**64).reshape(-1, grid, grid)
        self.factors = self._factors(image.shape[1], given)

    def have(self, *names: str) -> bool:
        """Return whether any block has one of the operations `names`."""
        return bool(np.isin(self.chosen, names).any())

    def changes(self, image: Tensor, noise: Tensor | None) -> Iterator[BlockChange]:
        """Yield the change of each block. `noise` (N, C, H, W) is added by the operation noise."""
        from study.attacks.blocks import BlockChange

        for (number, row, column), name in np.ndenumerate(self.chosen):
            rows = slice(int(self.rows[number, row]), int(self.rows[number, row + 1]))
            columns = slice(int(self.columns[number, column]), int(self.columns[number, column + 1]))
            size = rows.stop - rows.start, columns.stop - columns.start
            place = (number, slice(None), rows, columns)
            linear = self._linear((number, row, column), str(name), size, image)
            shift = noise[place] if noise is not None and name == "noise" else None
            yield BlockChange(place, linear, shift, clipped=name in _CLIPPED)

    def _linear(self, block: tuple[int, int, int], name: str, size: tuple[int, int], image: Tensor) -> Linear:
        """Return the linear part of the operation `name` for a block of the given size."""
        from study.attacks.blocks import Factor, Filter, Flip, Roll

        number, row, column = block
        share = self.shares[block]
        if name in _FILTERS:
            left, right = (uploaded(_FILTERS[name](length), image.device, image.dtype) for length in size)
            return Filter(left, right)
        if name in ("scale", "dropout"):
            return Factor(uploaded(self.factors[number, :, row, column], image.device, image.dtype)[:, None, None])
        if name in ("roll-rows", "roll-columns"):
            axis = 1 + (name == "roll-columns")
            return Roll(int(share * size[axis - 1]), axis)
        return Flip(_FLIPPED.get(name, ()))

    def _factors(self, channels: int, given: ViewContext) -> NDArray[np.float64]:
        found = np.where(self.chosen == "scale", self.shares, 1.0)[:, None].repeat(channels, 1)
        if not self.have("dropout"):
            return found
        words = given.draws.integers(channels * self.chosen[0].size, "channels").reshape(found.shape)
        kept = (words / 2**64 >= _DROPPED) / (1 - _DROPPED)
        return np.where((self.chosen == "dropout")[:, None], kept, found)


class _Tables:
    """The operations of all blocks of a batch as tensors with one entry per pixel, so that a GPU needs few kernels."""

    def __init__(self, blocks: _Blocks, image: Tensor) -> None:
        self._blocks = blocks
        self._image = image
        self._rows = _Axis(blocks.rows, image.shape[2], image)
        self._columns = _Axis(blocks.columns, image.shape[3], image)
        for block, name in np.ndenumerate(blocks.chosen):
            self._move(block, str(name))

    def changes(self, noise: Tensor | None) -> PixelChanges:
        """Return all changes of the images. `noise` (N, C, H, W) is added by the operation noise."""
        from study.attacks.blocks_together import PixelChanges

        blocks = self._blocks
        factor = self._of_pixels(blocks.factors) if blocks.have("scale", "dropout") else None
        shift = None if noise is None else noise * self._of_pixels((blocks.chosen == "noise")[:, None])
        clipped = None
        if blocks.have(*_CLIPPED):
            clipped = self._of_pixels(np.isin(blocks.chosen, _CLIPPED)[:, None])
        filtered = self._filtered() if blocks.have(*_FILTERS) else None
        return PixelChanges(*self._places(), filtered, factor, shift, clipped)

    def _move(self, block: tuple[int, ...], name: str) -> None:
        image, row, column = block
        rows, columns = self._rows.lines(image, row), self._columns.lines(image, column)
        share = self._blocks.shares[block]
        if name == "roll-rows":
            self._rows.come(image, row, column, np.roll(rows, int(share * len(rows))))
        if name == "roll-columns":
            self._columns.come(image, column, row, np.roll(columns, int(share * len(columns))))
        if name in ("flip-rows", "turn"):
            self._rows.come(image, row, column, rows[::-1])
        if name in ("flip-columns", "turn"):
            self._columns.come(image, column, row, columns[::-1])

    def _places(self) -> tuple[Tensor, Tensor]:
        """Return the moves of pixels and their inverse, both (N, H, W), as indices row * W + column.

        The first tensor has, for each position, the index of the pixel that moves to this position. The second tensor
        is the inverse permutation.
        """
        there, back = (self._of_lines(self._rows.tables[one], self._columns.tables[one]) for one in (0, 1))
        return there, back

    def _of_lines(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Tensor:
        height, width = self._image.shape[2:]
        row = self._tensor(rows).gather(1, self._columns.strip[:, :, None].expand(-1, -1, height)).mT
        return row * width + self._tensor(columns).gather(1, self._rows.strip[:, :, None].expand(-1, -1, width))

    def _filtered(self) -> Filtered:
        """Return the blocks whose operation is resize or low-pass, and their matrices."""
        from study.attacks.blocks_together import Filtered

        chosen = self._blocks.chosen
        most = max(self._image.shape[2:])
        blocks = np.argwhere(np.isin(chosen, list(_FILTERS)))
        image, row, column = blocks.T
        second = (chosen[image, row, column] == "low-pass").astype(np.int64) * (most + 1)
        top, rows = self._rows.extents(image, row)
        left, columns = self._columns.extents(image, column)
        numbers = np.full(chosen.shape, -1)
        numbers[image, row, column] = np.arange(len(blocks))
        first, down, across, up, along = map(self._tensor, (image, top, left, rows + second, columns + second))
        matrices = _matrices(most, self._image.device, self._image.dtype)
        return Filtered(first, down, across, up, along, matrices, self._of_pixels(numbers[:, None])[:, 0])

    def _of_pixels(self, table: NDArray[np.float64] | NDArray[np.bool_] | NDArray[np.int64]) -> Tensor:
        """Expand `table` from one value per block (N, K, grid, grid) to one value per pixel (N, K, H, W)."""
        values = self._tensor(table)
        values = values.to(self._image.dtype) if values.is_floating_point() else values
        count, grid = values.shape[1], values.shape[3]
        height = self._image.shape[2]
        values = values.gather(2, self._rows.strip[:, None, :, None].expand(-1, count, -1, grid))
        return values.gather(3, self._columns.strip[:, None, None].expand(-1, count, height, -1))

    def _tensor(self, values: NDArray[np.float64] | NDArray[np.int64] | NDArray[np.bool_]) -> Tensor:
        return uploaded(values, self._image.device)


class _Axis:
    """The cuts along one axis of each image, and the moves of lines along this axis.

    A line is a row or a column of pixels, and a strip is a row or a column of blocks. `strip` (N, size) is the index of
    the strip that contains each line. `tables` are two arrays (N, grid, size) of indices of lines, with a separate
    table for each of the `grid` strips of the other axis. The first array has, for each position, the line that moves
    to this position. The second array is the inverse permutation.
    """

    def __init__(self, edges: NDArray[np.int64], size: int, image: Tensor) -> None:
        self._edges = edges
        strip = (np.arange(size) >= edges[:, 1:-1, None]).sum(1)
        self.strip = uploaded(strip, image.device)
        self.tables = tuple(np.tile(np.arange(size), (len(edges), edges.shape[1] - 1, 1)) for _ in range(2))

    def lines(self, image: int, strip: int) -> NDArray[np.int64]:
        """Return the indices of the lines of the strip `strip` of the image with the index `image`."""
        return np.arange(self._edges[image, strip], self._edges[image, strip + 1])

    def extents(
        self, images: NDArray[np.int64], strips: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the index of the first line and the number of lines, for pairs of an image and a strip.

        Pair i is the image `images[i]` and its strip `strips[i]`. Both results have one entry per pair.
        """
        first, end = self._edges[images, strips], self._edges[images, strips + 1]
        return first, end - first

    def come(self, image: int, strip: int, across: int, order: NDArray[np.int64]) -> None:
        """Set a new order for the lines (rows or columns) of one block of an image.

        The block is the intersection of two strips: the strip `strip` along this object's axis, and the strip `across`
        along the other axis. `order` has the indices of the lines, in the new order.
        """
        own = self.lines(image, strip)
        there, back = self.tables
        there[image, across, own] = order
        back[image, across, order] = own


def _edges(words: list[int], size: int) -> list[int]:
    """Return the edges of the strips of one axis: 0, a different random place for each of `words`, and `size`."""
    cuts: list[int] = []
    for taken, word in enumerate(words):
        place = 1 + word % (size - 1 - taken)
        for cut in cuts:
            place += place >= cut
        cuts = sorted((*cuts, place))
    return [0, *cuts, size]


@functools.lru_cache(maxsize=256)
def _there_and_back(size: int) -> NDArray[np.float64]:
    """Return the matrix (size, size) that resizes a line to 0.8 of its length, plus a pixel, and back."""
    small = int(_RESIZED * size) + 1
    return resized(small, size, "bilinear") @ resized(size, small, "bilinear")


@functools.lru_cache(maxsize=256)
def _low_pass(size: int) -> NDArray[np.float64]:
    """Return the matrix (size, size) that sets the upper 0.4 of a line's cosine transform to 0."""
    kept = cosine_transform(size)[: size - int(_CUT * size)]
    return kept.T @ kept


_FLIPPED = {"flip-rows": (1,), "flip-columns": (2,), "turn": (1, 2)}
_CLIPPED = ("noise", "resize")
_FILTERS = {"resize": _there_and_back, "low-pass": _low_pass}


@kept
def _matrices(most: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the matrices of both filters for all lengths from 0 to `most`, (2 * most + 2, most, most).

    Index n is the matrix that resizes a line of n pixels. Index `most + 1 + n` is the low-pass matrix for n pixels. The
    rest of each matrix, beyond its n rows and columns, is 0.
    """
    import torch

    found = np.zeros((2, most + 1, most, most), np.float64 if dtype == torch.float64 else np.float32)
    for one, matrix in zip(found, _FILTERS.values(), strict=True):
        for length in range(1, most + 1):
            one[length, :length, :length] = matrix(length)
    return uploaded(found.reshape(-1, most, most), device, dtype)
