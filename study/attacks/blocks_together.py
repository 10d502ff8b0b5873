"""Operations that change the blocks of images, for all blocks together, so that a GPU needs only a few kernels.

The backward pass gathers values, as the forward pass does. It scatters no sums, because a GPU adds scattered values in
another order in each run, which changes the last bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Filtered:
    """B blocks, each multiplied by two matrices: a block becomes left @ block @ right.T.

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
    filtered: Filtered | None = None
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
        if changes.filtered is not None:
            moved = changes.filtered.put(moved, image, transposed=False)
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
        if changes.filtered is not None:
            moved = changes.filtered.put(moved, gradient, transposed=True)
        return moved, None


def _taken(image: Tensor, places: Tensor) -> Tensor:
    """Return the pixels of each image at the indices `places` (N, H, W), as images (N, C, H, W)."""
    index = places.flatten(1)[:, None].expand(-1, image.shape[1], -1)
    return image.flatten(2).gather(2, index).view(image.shape)
