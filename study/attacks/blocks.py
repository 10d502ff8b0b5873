"""Operations that change the blocks of images, one block after the other: the fastest way on a CPU.

On a GPU, `blocks_together` changes all blocks together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class Linear(Protocol):
    """A linear map of a block (C, h, w) to a block of the same shape."""

    def applied(self, block: Tensor) -> Tensor:
        """Return the map of `block`."""
        ...

    def transposed(self, block: Tensor) -> Tensor:
        """Return the transposed map of `block`, as a backward pass needs it."""
        ...


@dataclass(frozen=True)
class Roll:
    """Rolls a block by `distance` pixels along the axis `axis` of (C, h, w)."""

    distance: int
    axis: int

    def applied(self, block: Tensor) -> Tensor:
        return block.roll(self.distance, self.axis)

    def transposed(self, block: Tensor) -> Tensor:
        return block.roll(-self.distance, self.axis)


@dataclass(frozen=True)
class Flip:
    """Flips a block along `axes` of (C, h, w). Without axes, the block stays as it is."""

    axes: tuple[int, ...]

    def applied(self, block: Tensor) -> Tensor:
        return block.flip(self.axes) if self.axes else block

    transposed = applied


@dataclass(frozen=True)
class Factor:
    """Multiplies each channel of a block by its entry of `factors`, (C, 1, 1)."""

    factors: Tensor

    def applied(self, block: Tensor) -> Tensor:
        return block * self.factors

    transposed = applied


@dataclass(frozen=True)
class Filter:
    """Multiplies a block by two matrices: the block becomes left @ block @ right.T."""

    left: Tensor
    right: Tensor

    def applied(self, block: Tensor) -> Tensor:
        return self.left @ block @ self.right.mT

    def transposed(self, block: Tensor) -> Tensor:
        return self.left.mT @ block @ self.right


@dataclass(frozen=True)
class BlockChange:
    """The change of one block. A linear map comes first, then the sum with `shift`, and last the clipping.

    Attributes:
        place: The index of the block in images (N, C, H, W): a number, and three slices.
        linear: The linear map.
        shift: What is added to the block, (C, h, w), or None.
        clipped: Whether the block is clipped to 0..255.
    """

    place: tuple[int, slice, slice, slice]
    linear: Linear
    shift: Tensor | None
    clipped: bool


def changed(image: Tensor, changes: Sequence[BlockChange]) -> Tensor:
    """Return the images, float (N, C, H, W), after all `changes`. The result is differentiable in `image`.

    Every pixel of every image must be in exactly one block of `changes`.
    """
    return _Changed.apply(image, changes)  # type: ignore[no-any-return]


class _Changed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, changes: Sequence[BlockChange]) -> Tensor:
        image = image.detach().contiguous()
        found = torch.empty_like(image)
        ctx.changes, ctx.kept = changes, []
        for one in changes:
            block = one.linear.applied(image[one.place])
            if one.shift is not None:
                block = block + one.shift
            kept = None
            if one.clipped:
                free, block = block, block.clamp(0, 255)
                kept = free == block
            ctx.kept.append(kept)
            found[one.place] = block
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].contiguous()
        found = torch.empty_like(gradient)
        for one, kept in zip(ctx.changes, ctx.kept, strict=True):
            block = gradient[one.place]
            found[one.place] = one.linear.transposed(block if kept is None else block * kept)
        return found, None
