"""Linear maps that move or filter the blocks of an image, with gradients that are the same in every run.

Every image of a batch has its own grid of blocks. The backward pass gathers values, as the forward pass does. It
scatters no sums, because a GPU adds scattered values in another order in each run, which changes the last bits.
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
"""Number of pixels whose interpolation weights are computed at once; `_TOGETHER` has the number for a CPU.

On a CPU, these weights fit into the cache.
"""


@dataclass(frozen=True)
class Filtered:
    """A block of one image, and the two matrices that filter it: the block becomes left @ block @ right.T."""

    image: int
    rows: slice
    columns: slice
    left: Tensor
    right: Tensor


@dataclass(frozen=True)
class FilteredTogether:
    """B blocks that are filtered as in `Filtered`, but all at once: a GPU needs only a few kernels for this.

    Attributes:
        image: The index of each block's image, (B,).
        top: The row of each block's first pixel, (B,).
        left: The column of each block's first pixel, (B,).
        rows: For each block, the index in `matrices` of the matrix that filters its rows, (B,).
        columns: For each block, the index in `matrices` of the matrix that filters its columns, (B,).
        matrices: K square matrices (K, S, S). A matrix is 0 beyond the size of its block.
        block: For each pixel, the index of its block, (N, H, W); -1 for a pixel in none of the B blocks.
    """

    image: Tensor
    top: Tensor
    left: Tensor
    rows: Tensor
    columns: Tensor
    matrices: Tensor
    block: Tensor

    def put(self, moved: Tensor, image: Tensor, *, transposed: bool) -> Tensor:
        """Return `moved` (N, C, H, W) with the filtered blocks of `image` put at their places.

        If `transposed`, the blocks are filtered with the transposed matrices, as a backward pass needs.
        """
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
    """The changes of a batch of images (N, C, H, W), which are applied in this order:

    1. Pixels move. `there` (N, H, W) has, for each position, the index of the pixel that moves to it. `there` is a
       permutation that leaves the blocks of `filtered` in place, and `back` is its inverse.
    2. The blocks of `filtered` are filtered.
    3. Pixels are multiplied by `factor`, and then `shift` is added. Both are (N, C, H, W) or (N, 1, H, W).
    4. Pixels are clipped to 0..255 where `clipped` (N, 1, H, W) is true.
    """

    there: Tensor
    back: Tensor
    filtered: Sequence[Filtered] | FilteredTogether | None = None
    factor: Tensor | None = None
    shift: Tensor | None = None
    clipped: Tensor | None = None


def changed(image: Tensor, changes: PixelChanges) -> Tensor:
    """Return the images, float (N, C, H, W), after all `changes`. The result is differentiable in `image`."""
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
    """Return `moved` (N, C, H, W) with the filtered blocks of `image` put at their places.

    `moved` may be overwritten. If `transposed`, the blocks are filtered with the transposed matrices.
    """
    if isinstance(changes.filtered, FilteredTogether):
        return changes.filtered.put(moved, image, transposed=transposed)
    for one in changes.filtered or ():
        block = image[one.image, :, one.rows, one.columns]
        left, right = (one.left.mT, one.right.mT) if transposed else (one.left, one.right)
        moved[one.image, :, one.rows, one.columns] = left @ block @ right.mT
    return moved


def _taken(image: Tensor, places: Tensor) -> Tensor:
    """Return the pixels of each image at the indices `places` (N, H, W), as images (N, C, H, W)."""
    index = places.flatten(1)[:, None].expand(-1, image.shape[1], -1)
    return image.flatten(2).gather(2, index).view(image.shape)


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


def shuffled(
    lengths: NDArray[np.int64], order: NDArray[np.int64], axis: int, device: torch.device
) -> tuple[BlockLines, BlockLines]:
    """Return the lines of a new and of an old image that have the same strips in different orders.

    The strips of the old image n have the lengths lengths[n]. In the new image n, the strip order[n, k] comes k-th.
    Both arrays are (N, strips). In the lines of the new image, `other` tells where a strip was in the old image. In the
    lines of the old image, `other` tells where a strip is in the new image. `axis` is the axis of the lines in
    (N, H, W).
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
    """Blocks that move to other places and are rotated about their centres.

    `cosine` and `sine` (N, blocks) are the cosine and the sine of each block's angle; positive angles are
    counter-clockwise. `rows` and `columns` are results of `shuffled`.
    """

    rows: tuple[BlockLines, BlockLines]
    columns: tuple[BlockLines, BlockLines]
    cosine: Tensor
    sine: Tensor


def turned(image: Tensor, turns: Turns) -> Tensor:
    """Return the images (N, C, H, W) with their blocks moved and rotated. The result is differentiable in `image`.

    A new pixel is interpolated linearly between old pixels of the same block; outside the block, values count as 0.
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
"""A function that yields pairs of tensors (n, H, W) for the arguments rows, columns, cosine and sine.

Cosine and sine are (n, H, W). Each pair has, for every pixel of an image, the index of one pixel of the other image,
and the weight of that pixel.
"""


def _summed(image: Tensor, turns: Turns, side: int, taps: _Taps) -> Tensor:
    """Return images (N, C, H, W) whose pixels are weighted sums of pixels of `image`.

    `taps` yields the indices and the weights of these pixels. `side` says which lines of `turns` to use: 0 for those of
    the new image, 1 for those of the old image.
    """
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

    An old pixel contributes only to new pixels near its new position; other new pixels have the weight 0.
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

    A weight is 0 outside the block. Inside the block it is `weight`, or 1 if `weight` is None. `weight` is overwritten.
    """
    last = (lines.length - 1).to(places.dtype)
    held = torch.minimum(places.clamp(min=0), last)
    inside = (held == places).to(places.dtype)
    return held.long().add_(lines.other), inside if weight is None else inside.mul_(weight)
