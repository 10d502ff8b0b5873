"""Blocks of an image that move to other places and are rotated, with gradients that are the same in every run.

Every image of a batch has its own grid of blocks. On a CPU, torch's `grid_sample` rotates one block after the other. On
a GPU, its backward pass adds values in another order in each run, so there the backward pass gathers values instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from study.devices.copies import uploaded

_TOGETHER = 2**22
"""Number of pixels whose interpolation weights are computed at once on a GPU."""


@dataclass(frozen=True)
class Strips:
    """The strips of N images: bands of neighbouring rows, or of neighbouring columns, that change their order.

    Attributes:
        lengths: The number of lines in each strip of the old image n, int64 (N, strips).
        order: The indices of the strips in the order of the new image, int64 (N, strips).
    """

    lengths: NDArray[np.int64]
    order: NDArray[np.int64]

    def moves(self, image: int) -> Iterator[tuple[int, slice, slice]]:
        """Yield each strip of an image that is not empty: its index, its old lines, and its new lines."""
        lengths, order = self.lengths[image], self.order[image]
        old, new = np.cumsum(lengths) - lengths, 0
        for strip in order.tolist():
            length, start = int(lengths[strip]), int(old[strip])
            if length:
                yield strip, slice(start, start + length), slice(new, new + length)
            new += length


@dataclass(frozen=True)
class Turns:
    """Blocks that move to other places and are rotated about their centres.

    A block is where a strip of rows crosses a strip of columns. `angles` (N, strips * strips) are the blocks' angles in
    radians, row by row in the old image; positive angles are counter-clockwise.
    """

    rows: Strips
    columns: Strips
    angles: NDArray[np.float64]


def turned(image: Tensor, turns: Turns) -> Tensor:
    """Return the images (N, C, H, W) with their blocks moved and rotated. The result is differentiable in `image`.

    A new pixel is interpolated linearly between old pixels of the same block; outside the block, values count as 0.
    """
    return sampled(image, turns) if image.device.type == "cpu" else gathered(image, turns)


def sampled(image: Tensor, turns: Turns) -> Tensor:
    """Compute `turned` block by block, with torch's `grid_sample`."""
    return _Sampled.apply(image, turns)  # type: ignore[no-any-return]


def gathered(image: Tensor, turns: Turns) -> Tensor:
    """Compute `turned` for all blocks together, so that a GPU needs few kernels."""
    return _Gathered.apply(image, turns)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Block:
    """A block: its place in the old and in the new images (image, channels, rows, columns), and its sampling grid."""

    old: tuple[slice, ...]
    new: tuple[slice, ...]
    grid: Tensor


class _Sampled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, turns: Turns) -> Tensor:
        ctx.blocks = list(_blocks(image, turns))
        image = image.contiguous()
        found = torch.empty_like(image)
        for one in ctx.blocks:
            found[one.new] = functional.grid_sample(image[one.old], one.grid, align_corners=False)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].contiguous()
        found = torch.empty_like(gradient)
        for one in ctx.blocks:
            upstream = gradient[one.new]
            found[one.old], _ = torch.ops.aten.grid_sampler_2d_backward(
                upstream, upstream, one.grid, 0, 0, False, (True, False)
            )
        return found, None


def _blocks(image: Tensor, turns: Turns) -> Iterator[_Block]:
    """Yield the blocks of the images.

    A grid (1, h, w, 2) has the columns and rows of `grid_sample`, in which the block extends from -1 to 1.
    """
    strips, (height, width) = turns.columns.lengths.shape[1], image.shape[2:]
    down, across = (torch.arange(count, dtype=image.dtype) for count in (height, width))
    everything = slice(None)
    for number, angles in enumerate(turns.angles):
        own = slice(number, number + 1)
        columns = list(turns.columns.moves(number))
        for row, old_rows, new_rows in turns.rows.moves(number):
            high = old_rows.stop - old_rows.start
            v = (down[:high] - (high - 1) / 2)[:, None]
            for column, old_columns, new_columns in columns:
                wide = old_columns.stop - old_columns.start
                u = across[:wide] - (wide - 1) / 2
                angle = float(angles[row * strips + column])
                cosine, sine = math.cos(angle), math.sin(angle)
                grid = torch.empty(1, high, wide, 2, dtype=image.dtype)
                torch.sub(cosine * u, sine * v, out=grid[0, :, :, 0]).mul_(2 / wide)
                torch.add(cosine * v, sine * u, out=grid[0, :, :, 1]).mul_(2 / high)
                old, new = (own, everything, old_rows, old_columns), (own, everything, new_rows, new_columns)
                yield _Block(old, new, grid)


@dataclass(frozen=True)
class BlockLines:
    """The strip to which each line (row or column) of an image belongs, and the place of this strip in another image.

    A strip is a band of neighbouring lines. An old image and a new image have the same strips in different orders; seen
    from the old image, the other image is the new one, and vice versa. All attributes are (N, H, 1) for rows and
    (N, 1, W) for columns.

    Attributes:
        strip: The index of the line's strip in the old image.
        place: The line's position in its strip.
        length: The number of lines in the strip.
        other: The position of the strip's first line in the other image.
    """

    strip: Tensor
    place: Tensor
    length: Tensor
    other: Tensor

    def of(self, images: slice) -> BlockLines:
        """Return the lines of the images in the slice `images`."""
        return BlockLines(self.strip[images], self.place[images], self.length[images], self.other[images])


def shuffled(strips: Strips, axis: int, device: torch.device) -> tuple[BlockLines, BlockLines]:
    """Return the lines of a new and of an old image that have the same strips in different orders.

    In the lines of the new image, `other` tells where a strip was in the old image. In the lines of the old image,
    `other` tells where a strip is in the new image. `axis` is the axis of the lines in (N, H, W).
    """
    lengths, order = strips.lengths, strips.order
    count = int(lengths[0].sum())
    new = np.take_along_axis(lengths, order, 1)
    back = np.argsort(order, axis=1)
    old_start, new_start = (np.cumsum(one, 1) - one for one in (lengths, new))
    numbers = np.broadcast_to(np.arange(lengths.shape[1]), lengths.shape)
    found = []
    for own, own_start, strip, other_start in (
        (new, new_start, order, np.take_along_axis(old_start, order, 1)),
        (lengths, old_start, numbers, np.take_along_axis(new_start, back, 1)),
    ):
        kth = (np.arange(count) >= np.cumsum(own, 1)[:, :, None]).sum(1)
        of_line = [np.take_along_axis(one, kth, 1) for one in (strip, own_start, own, other_start)]
        of_line[1] = np.arange(count) - of_line[1]
        found.append(BlockLines(*(uploaded(one, device).unsqueeze(3 - axis) for one in of_line)))
    return found[0], found[1]


@dataclass(frozen=True)
class _Lines:
    """The lines of the new and of the old images, and the cosines and sines (N, blocks) of the angles of the blocks."""

    rows: tuple[BlockLines, BlockLines]
    columns: tuple[BlockLines, BlockLines]
    cosine: Tensor
    sine: Tensor


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, turns: Turns) -> Tensor:
        device = image.device
        rows, columns = (shuffled(one, axis, device) for axis, one in ((1, turns.rows), (2, turns.columns)))
        cosine, sine = (uploaded(one(turns.angles), device, image.dtype) for one in (np.cos, np.sin))
        ctx.lines = _Lines(rows, columns, cosine, sine)
        return _summed(image, ctx.lines, 0, _around)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _summed(gradients[0], ctx.lines, 1, _reached), None


_Taps = Callable[[BlockLines, BlockLines, Tensor, Tensor], Iterator[tuple[Tensor, Tensor]]]
"""A function that yields pairs of tensors (n, H, W) for the arguments rows, columns, cosine and sine.

Cosine and sine are (n, H, W). Each pair has, for every pixel of an image, the index of one pixel of the other image,
and the weight of that pixel.
"""


def _summed(image: Tensor, turns: _Lines, side: int, taps: _Taps) -> Tensor:
    """Return images (N, C, H, W) whose pixels are weighted sums of pixels of `image`.

    `taps` yields the indices and the weights of these pixels. `side` says which lines of `turns` to use: 0 for those of
    the new image, 1 for those of the old image.
    """
    count, channels, height, width = image.shape
    pixels = image.permute(0, 2, 3, 1).reshape(-1, channels)
    first = torch.arange(count, device=image.device)[:, None, None] * (height * width)
    together = max(1, _TOGETHER // (height * width))
    parts = []
    for start in range(0, count, together):
        these = slice(start, start + together)
        rows, columns = turns.rows[side].of(these), turns.columns[side].of(these)
        block = rows.strip * round(turns.cosine.shape[1] ** 0.5) + columns.strip
        cosine, sine = (one[these].gather(1, block.flatten(1)).view(block.shape) for one in (turns.cosine, turns.sine))
        places, weights = zip(*taps(rows, columns, cosine, sine), strict=True)
        numbers = torch.stack(places, 3).add_(first[these, ..., None]).flatten(0, 2)
        shares = torch.stack(weights, 3).flatten(0, 2)
        parts.append(functional.embedding_bag(numbers, pixels, per_sample_weights=shares, mode="sum"))
    summed = parts[0] if len(parts) == 1 else torch.cat(parts)
    return summed.view(count, height, width, channels).permute(0, 3, 1, 2)


def _around(rows: BlockLines, columns: BlockLines, cosine: Tensor, sine: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, for each new pixel, four old pixels and their weights.

    They are the old pixels around the position from which the new pixel comes.
    """
    y, x = _turn(rows, columns, cosine, sine)
    top, left = y.floor(), x.floor()
    y, x = y.sub_(top), x.sub_(left)
    across = [_line(columns, left + more, _hat(more - x)) for more in range(2)]
    for more in range(2):
        row, high = _line(rows, top + more, _hat(more - y))
        row.mul_(columns.strip.shape[2])
        for column, wide in across:
            yield row + column, high * wide


def _reached(rows: BlockLines, columns: BlockLines, cosine: Tensor, sine: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, for each old pixel, the nine new pixels to which it may contribute, and their weights.

    An old pixel contributes only to new pixels near its new position. Those of the nine that are not near enough have
    the weight 0.
    """
    y, x = _turn(rows, columns, cosine, -sine)
    reach = cosine.abs().add_(sine.abs())
    top, left = (y - reach).ceil_(), (x - reach).ceil_()
    y, x = (top - y), (left - x)
    across = []
    for more in range(3):
        u = x + more
        column, inside = _line(columns, left + more, None)
        across.append((column, inside, cosine * u, sine * u))
    for more in range(3):
        v = y + more
        row, high = _line(rows, top + more, None)
        row.mul_(columns.strip.shape[2])
        along, aside = cosine * v, sine * v
        for column, wide, cosine_u, sine_u in across:
            weight = _hat(along + sine_u).mul_(_hat(cosine_u - aside)).mul_(high).mul_(wide)
            yield row + column, weight


def _turn(rows: BlockLines, columns: BlockLines, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    """Return where each pixel lies in its block after a rotation about the block's centre: row and column (n, H, W)."""
    middle_y, middle_x = ((one.length - 1).to(cosine.dtype) / 2 for one in (rows, columns))
    v, u = rows.place - middle_y, columns.place - middle_x
    return (cosine * v).add_(sine * u).add_(middle_y), (cosine * u).sub_(sine * v).add_(middle_x)


def _hat(distance: Tensor) -> Tensor:
    """Return the weight of linear interpolation, max(0, 1 - |distance|). `distance` is overwritten."""
    return distance.abs_().neg_().add_(1).clamp_(min=0)


def _line(lines: BlockLines, places: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the indices, int64 (n, H, W), of the other image's lines at `places` in a block, and the lines' weights.

    A weight is 0 outside the block. Inside the block it is `weight`, or 1 if `weight` is None.
    """
    last = (lines.length - 1).to(places.dtype)
    held = torch.minimum(places.clamp(min=0), last)
    inside = (held == places).to(places.dtype)
    return held.long().add_(lines.other), inside if weight is None else inside.mul_(weight)
