"""Linear maps of pixels that move within or between the blocks of an image, with gradients that are sums in one order.

Every image of a batch has a grid of its own. Gradients are gathered, as the images are: scattered sums would have
another order, and other last bits, each time on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Taps = Callable[[], Iterator[tuple[Tensor, Tensor]]]
"""Yields places (N, H, W), numbers of pixels, and weights (N, H, W) of the pixels there: the map is their sum."""


@dataclass(frozen=True)
class Filtered:
    """A block of one image that becomes left @ block @ right.T."""

    image: int
    rows: slice
    columns: slice
    left: Tensor
    right: Tensor


def rearranged(image: Tensor, there: Tensor, back: Tensor, filtered: Sequence[Filtered] = ()) -> Tensor:
    """Return the image (N, C, H, W) with pixel `there[n, y, x]` at (y, x), and some blocks filtered.

    `there` (N, H, W) is a permutation of the numbers of an image's pixels, which leaves `filtered` blocks in place, and
    `back` its inverse.
    """
    return _Rearranged.apply(image, there, back, filtered)  # type: ignore[no-any-return, no-untyped-call]


def summed(image: Tensor, there: Taps, back: Taps) -> Tensor:
    """Return the weighted sum of pixels that `there` describes; `back` describes the transposed map."""
    return _Summed.apply(image, there, back)  # type: ignore[no-any-return, no-untyped-call]


class _Rearranged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, there: Tensor, back: Tensor, filtered: Sequence[Filtered]) -> Tensor:
        ctx.save_for_backward(back)
        ctx.filtered = filtered
        moved = _taken(image, there)
        for one in filtered:
            block = image[one.image, :, one.rows, one.columns]
            moved[one.image, :, one.rows, one.columns] = one.left @ block @ one.right.mT
        return moved

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,), (back,) = gradients, ctx.saved_tensors
        moved = _taken(gradient, back)
        for one in ctx.filtered:
            block = gradient[one.image, :, one.rows, one.columns]
            moved[one.image, :, one.rows, one.columns] = one.left.mT @ block @ one.right
        return moved, None, None, None


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, there: Taps, back: Taps) -> Tensor:
        ctx.back = back
        return _sum(image, there)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _sum(gradients[0], ctx.back), None, None


def _taken(image: Tensor, places: Tensor) -> Tensor:
    """The pixels of each image at `places` (N, H, W), for all channels: (N, C, H, W)."""
    channels = image.shape[1]
    index = places.flatten(1)[:, None].expand(-1, channels, -1)
    return image.flatten(2).gather(2, index).view(len(image), channels, *places.shape[1:])


def _sum(image: Tensor, taps: Taps) -> Tensor:
    total: Tensor | None = None
    for places, weights in taps():
        part = _taken(image, places).mul_(weights[:, None])
        total = part if total is None else total.add_(part)
    assert total is not None, "a map has taps"
    return total


@dataclass(frozen=True)
class Lines:
    """Where each line (row or column) of an image lies in its strip, and where that strip comes from or goes to.

    All are int64 (N, lines): the number of the strip in the clean image, the line's place in it, the strip's length,
    and the place of its first line in the other image.
    """

    strip: Tensor
    place: Tensor
    length: Tensor
    other: Tensor


def shuffled(lengths: NDArray[np.int64], order: NDArray[np.int64], device: torch.device) -> tuple[Lines, Lines]:
    """Describe strips of `lengths` (N, strips) put in a new `order` (N, strips): strip order[n, k] comes k-th.

    Returns the lines of the new image, which come from the old one, and those of the old, which go to the new one.
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
        found.append(Lines(*(torch.from_numpy(np.ascontiguousarray(one)).to(device) for one in of_line)))
    return found[0], found[1]


@dataclass(frozen=True)
class Turned:
    """Blocks that change their places, each turned about its middle: `cosine` and `sine` (N, blocks) of the angles.

    Pixels are interpolated linearly from those of the same block; outside of it is 0. Positive angles turn
    counter-clockwise.
    """

    rows: tuple[Lines, Lines]
    columns: tuple[Lines, Lines]
    cosine: Tensor
    sine: Tensor

    def there(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield where the new pixels come from: four pixels around a place."""
        rows, columns = self.rows[0], self.columns[0]
        cosine, sine = self._angles(rows, columns)
        y, x = _turned(rows, columns, cosine, sine)
        top, left = y.floor(), x.floor()
        for more in ((0, 0), (0, 1), (1, 0), (1, 1)):
            at_y, at_x = top + more[0], left + more[1]
            yield _tap(rows, columns, at_y, at_x, _hat(at_y - y).mul_(_hat(at_x - x)))

    def back(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield where the old pixels go to: all new pixels that lie within one pixel of them, at most nine."""
        rows, columns = self.rows[1], self.columns[1]
        cosine, sine = self._angles(rows, columns)
        y, x = _turned(rows, columns, cosine, -sine)
        reach = cosine.abs() + sine.abs()
        top, left = (y - reach).ceil(), (x - reach).ceil()
        for down in range(3):
            for right in range(3):
                at_y, at_x = top + down, left + right
                v, u = at_y - y, at_x - x
                weight = _hat(cosine * v + sine * u).mul_(_hat(cosine * u - sine * v))
                yield _tap(rows, columns, at_y, at_x, weight)

    def _angles(self, rows: Lines, columns: Lines) -> tuple[Tensor, Tensor]:
        """Cosine and sine of every pixel (N, H, W)."""
        strips = round(self.cosine.shape[1] ** 0.5)
        block = rows.strip[:, :, None] * strips + columns.strip[:, None]
        return tuple(one.gather(1, block.flatten(1)).view(block.shape) for one in (self.cosine, self.sine))  # type: ignore[return-value]


def _turned(rows: Lines, columns: Lines, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    """The places (N, H, W) of all pixels in their blocks, turned about the blocks' middles."""
    middle_y, middle_x = ((one.length - 1).to(cosine.dtype) / 2 for one in (rows, columns))
    v, u = (rows.place - middle_y)[:, :, None], (columns.place - middle_x)[:, None]
    return cosine * v + sine * u + middle_y[:, :, None], cosine * u - sine * v + middle_x[:, None]


def _hat(distance: Tensor) -> Tensor:
    return (1 - distance.abs()).clamp_(min=0)


def _tap(rows: Lines, columns: Lines, y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Places (N, H, W) in the whole other image for places in a block, with weight 0 outside of the block."""
    high, wide = rows.length[:, :, None], columns.length[:, None]
    inside = (y >= 0) & (y < high) & (x >= 0) & (x < wide)
    width = columns.strip.shape[1]
    row = rows.other[:, :, None] + y.long()
    column = columns.other[:, None] + x.long()
    return torch.where(inside, row * width + column, 0), weight.mul_(inside)
