"""Linear maps that move pixels within or between the blocks of an image, with gradients that sum in a fixed order.

Every image of a batch has a grid of its own. Gradients are gathered like the images: on a GPU, scattered sums would
have another order, and other last bits, in each run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from study.devices.copies import uploaded

_TOGETHER = {"cpu": 2**17}
_TOGETHER_ELSEWHERE = 2**22
"""Number of pixels whose weights are computed at once. On a CPU, they fit into the cache."""


@dataclass(frozen=True)
class Filtered:
    """A block of one image. The block becomes left @ block @ right.T."""

    image: int
    rows: slice
    columns: slice
    left: Tensor
    right: Tensor


@dataclass(frozen=True)
class FilteredTogether:
    """B blocks, each filtered as in `Filtered`, but all together in a few kernels: for a GPU.

    Attributes:
        image: The index of each block's image, (B,).
        top: The row of each block's first pixel, (B,).
        left: The column of each block's first pixel, (B,).
        rows: For each block, the index in `matrices` of the matrix that filters its rows, (B,).
        columns: For each block, the index in `matrices` of the matrix that filters its columns, (B,).
        matrices: The matrices (K, S, S), which are 0 beyond the size of the block.
        block: For each pixel, the index of its block, (N, H, W); -1 for no block.
    """

    image: Tensor
    top: Tensor
    left: Tensor
    rows: Tensor
    columns: Tensor
    matrices: Tensor
    block: Tensor

    def put(self, moved: Tensor, image: Tensor, *, transposed: bool) -> Tensor:
        """Return `moved` (N, C, H, W) with the filtered blocks of `image` in their places."""
        channels, height, width = image.shape[1:]
        size = self.matrices.shape[1]
        line = torch.arange(size, device=image.device)
        down = (self.top[:, None] + line).clamp(max=height - 1)
        across = (self.left[:, None] + line).clamp(max=width - 1)
        places = (self.image[:, None, None] * height + down[:, :, None]) * width + across[:, None]
        pixels = image.permute(1, 0, 2, 3).reshape(channels, -1)
        blocks = pixels[:, places].transpose(0, 1)
        left, right = (self.matrices[one][:, None] for one in (self.rows, self.columns))
        changed = left.mT @ blocks @ right if transposed else left @ blocks @ right.mT
        own = self.block.clamp(min=0)
        y = torch.arange(height, device=image.device)[:, None] - self.top[own]
        x = torch.arange(width, device=image.device) - self.left[own]
        taken = changed.transpose(0, 1).reshape(channels, -1)[:, ((own * size + y) * size + x).clamp(min=0)]
        return torch.where((self.block >= 0)[:, None], taken.transpose(0, 1), moved)


@dataclass(frozen=True)
class PixelChanges:
    """The changes of a batch of images (N, C, H, W), in this order.

    First, pixels move: `there` (N, H, W) has, for each position, the index of the pixel that moves to it. `there` is a
    permutation that leaves the blocks of `filtered` in place; `back` is its inverse. Then the blocks of `filtered` are
    filtered. Then pixels are multiplied by `factor`, and `shift` is added; `factor` and `shift` are (N, C or 1, H, W).
    Last, pixels are clipped to 0..255 where `clipped` (N, 1, H, W) is true.
    """

    there: Tensor
    back: Tensor
    filtered: Sequence[Filtered] | FilteredTogether | None = None
    factor: Tensor | None = None
    shift: Tensor | None = None
    clipped: Tensor | None = None


def changed(image: Tensor, changes: PixelChanges) -> Tensor:
    """Return the image, float (N, C, H, W), with its pixels changed."""
    return _Changed.apply(image, changes)  # type: ignore[no-any-return]


class _Changed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, changes: PixelChanges) -> Tensor:
        ctx.changes = changes
        moved = _taken(image, changes.there)
        moved = _filtered(moved, image, changes, transposed=False)
        slope = changes.factor
        if changes.factor is not None:
            moved.mul_(changes.factor)
        if changes.shift is not None:
            moved.add_(changes.shift)
        if changes.clipped is not None:
            free, moved = moved, torch.where(changes.clipped, moved.clamp(0, 255), moved)
            kept = (free == moved).to(moved.dtype)
            slope = kept if slope is None else kept.mul_(slope)
        ctx.slope = slope
        return moved

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        changes: PixelChanges = ctx.changes
        gradient = gradients[0] if ctx.slope is None else gradients[0] * ctx.slope
        moved = _taken(gradient, changes.back)
        return _filtered(moved, gradient, changes, transposed=True), None


def _filtered(moved: Tensor, image: Tensor, changes: PixelChanges, *, transposed: bool) -> Tensor:
    """`moved`, overwritten where a block of `image` is filtered."""
    if isinstance(changes.filtered, FilteredTogether):
        return changes.filtered.put(moved, image, transposed=transposed)
    for one in changes.filtered or ():
        block = image[one.image, :, one.rows, one.columns]
        left, right = (one.left.mT, one.right.mT) if transposed else (one.left, one.right)
        moved[one.image, :, one.rows, one.columns] = left @ block @ right.mT
    return moved


def _taken(image: Tensor, places: Tensor) -> Tensor:
    """The pixels of each image at `places` (N, H, W), for all channels: (N, C, H, W)."""
    index = places.flatten(1)[:, None].expand(-1, image.shape[1], -1)
    return image.flatten(2).gather(2, index).view(image.shape)


@dataclass(frozen=True)
class BlockLines:
    """The position of each line (row or column) of an image in its strip, and the strip's position in the other image.

    All attributes are (N, H, 1) for rows and (N, 1, W) for columns.

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
        """Return the lines of these `images` only."""
        return BlockLines(self.strip[images], self.place[images], self.length[images], self.other[images])


def shuffled(
    lengths: NDArray[np.int64], order: NDArray[np.int64], axis: int, device: torch.device
) -> tuple[BlockLines, BlockLines]:
    """Describe strips of `lengths` (N, strips) in a new `order` (N, strips): in image n, strip order[n, k] comes k-th.

    Returns the lines of the new image, with their origin in the old image, and the lines of the old image, with their
    destination in the new image. `axis` is the axis of the lines in (N, H, W).
    """
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
class Turns:
    """Blocks that change their places, each rotated about its centre.

    `cosine` and `sine` (N, blocks) are those of the angles; positive angles are counter-clockwise. `rows` and `columns`
    are results of `shuffled`.
    """

    rows: tuple[BlockLines, BlockLines]
    columns: tuple[BlockLines, BlockLines]
    cosine: Tensor
    sine: Tensor


def turned(image: Tensor, turns: Turns) -> Tensor:
    """Return the image (N, C, H, W) with its blocks moved and rotated.

    Pixels are interpolated linearly from pixels of the same block; outside the block, values are 0.
    """
    return _Turned.apply(image, turns)  # type: ignore[no-any-return]


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, turns: Turns) -> Tensor:
        ctx.turns = turns
        return _summed(image, turns, 0, _around)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _summed(gradients[0], ctx.turns, 1, _reached), None


_Taps = Callable[[BlockLines, BlockLines, Tensor, Tensor], Iterator[tuple[Tensor, Tensor]]]
"""Gets rows, columns, cosine and sine (n, H, W). Yields pairs (n, H, W): for each pixel, the index of a pixel of the
other image, and its weight."""


def _summed(image: Tensor, turns: Turns, side: int, taps: _Taps) -> Tensor:
    """Weighted sums of the pixels that `taps` yields."""
    count, channels, height, width = image.shape
    pixels = image.permute(0, 2, 3, 1).reshape(-1, channels)
    first = torch.arange(count, device=image.device)[:, None, None] * (height * width)
    together = max(1, _TOGETHER.get(image.device.type, _TOGETHER_ELSEWHERE) // (height * width))
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
    """The four old pixels around the position that each new pixel comes from, and their weights."""
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
    """The new pixels that each old pixel contributes to, and their weights.

    They lie within one pixel of the old pixel's new position, and are at most nine.
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
    """The positions (n, H, W) of all pixels in their blocks, rotated about the centres of the blocks."""
    middle_y, middle_x = ((one.length - 1).to(cosine.dtype) / 2 for one in (rows, columns))
    v, u = rows.place - middle_y, columns.place - middle_x
    return (cosine * v).add_(sine * u).add_(middle_y), (cosine * u).sub_(sine * v).add_(middle_x)


def _hat(distance: Tensor) -> Tensor:
    """The weight of linear interpolation; `distance` is overwritten."""
    return distance.abs_().neg_().add_(1).clamp_(min=0)


def _line(lines: BlockLines, places: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """The lines of the other image at `places` in a block, int64 (n, H, W), and their weight: 0 outside the block."""
    last = (lines.length - 1).to(places.dtype)
    held = torch.minimum(places.clamp(min=0), last)
    inside = (held == places).to(places.dtype)
    return held.long().add_(lines.other), inside if weight is None else inside.mul_(weight)
