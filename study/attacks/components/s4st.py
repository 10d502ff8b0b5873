"""S4ST: copies of the image, each changed as a whole by a simple operation, and then scaled block by block."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from study.attacks.image_operations import BASIC, IDENTITY, applied, resizing
from study.attacks.kinds import View, ViewContext
from study.attacks.registry import register
from study.devices.copies import uploaded

if TYPE_CHECKING:
    from torch import Tensor


@register
class BlockScaling(View):
    """S4ST: `copies` copies of the image, each changed as a whole and then scaled block by block.

    Liu et al., arXiv:2410.13891. First, with probability `change`, one of nine operations changes the whole image. The
    operations are a roll or a flip along either axis, a turn by 180 degrees, a multiplication by a random factor,
    noise, a low-pass filter, and dropped channels. Then the image is cut into blocks. `blocks` are the numbers of
    blocks along the two axes, in random order. The edges of the blocks are random, at least `spacing` times the image's
    size apart. With probability `probability`, a block is scaled by a factor that is uniform from 1 / `most` to `most`.
    The interpolation is bilinear, with antialiasing. A smaller block is put at a random place among zeros. A larger
    block is cropped to its old size, at a random place.

    The authors' code draws random numbers once for a batch. Here, each image has its own draws. The spacing in the
    authors' code is 30 of 224 pixels.
    """

    name: ClassVar[str] = "s4st"
    version: ClassVar[int] = 2

    copies: Annotated[int, Field(ge=1, le=10_000)] = 1
    probability: Annotated[float, Field(ge=0, le=1)] = 0.9
    change: Annotated[float, Field(ge=0, le=1)] = 1.0
    most: Annotated[float, Field(gt=1, le=8)] = 1.9
    blocks: Annotated[tuple[int, int], Field(strict=False)] = (2, 3)
    spacing: Annotated[float, Field(gt=0, lt=1)] = 30 / 224

    @model_validator(mode="after")
    def _fits(self) -> BlockScaling:
        if min(self.blocks) < 1 or max(self.blocks) * self.spacing > 1:
            raise PydanticCustomError("parts", "each number in `blocks` of s4st must be from 1 to 1 / `spacing`")
        return self

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        import torch

        first = given.draws.integers(2, "choice").tolist()
        chosen = [BASIC[which % len(BASIC)] if chance / 2**64 < self.change else IDENTITY for chance, which in first]
        image = applied(image, chosen, given.draws, "change", given.pool)
        edges = sum(self.blocks) - 2
        words = given.draws.integers(1 + edges + 4 * math.prod(self.blocks), "blocks")
        return torch.stack([self._scaled(one, own) for one, own in zip(image, words.tolist(), strict=True)])

    def _scaled(self, image: Tensor, words: list[int]) -> Tensor:
        """Return `image` (C, H, W) with its blocks scaled.

        `words` are random 64-bit integers. These integers determine the order of the two numbers in `blocks`, the
        edges, and the scaling of each block.
        """
        import torch

        order, *words = words
        down, right = self.blocks if order % 2 else self.blocks[::-1]
        rows = self._edges(image.shape[1], words[: down - 1])
        columns = self._edges(image.shape[2], words[down - 1 : down + right - 2])
        own = iter(np.array(words[down + right - 2 :], dtype=np.uint64).reshape(-1, 4).tolist())
        return torch.cat(
            [
                torch.cat([self._block(image[:, top:bottom, left:end], next(own)) for left, end in columns], 2)
                for top, bottom in rows
            ],
            1,
        )

    def _edges(self, size: int, words: list[int]) -> list[tuple[int, int]]:
        """Return the begin and end positions of each block along an axis of `size` pixels.

        `words` are random 64-bit integers, one for each edge between two blocks.
        """
        least = self.spacing * size
        free = size - (len(words) + 1) * least
        inner = [int((place + 1) * least + free * share / 2**64) for place, share in enumerate(sorted(words))]
        return list(zip([0, *inner], [*inner, size], strict=True))

    def _block(self, block: Tensor, words: list[int]) -> Tensor:
        chance, extent, top, left = words
        if chance / 2**64 >= self.probability:
            return block
        factor = 1 / self.most + (self.most - 1 / self.most) * extent / 2**64
        down, right = (
            uploaded(scaling(size, factor, word), block.device, block.dtype)
            for size, word in zip(block.shape[1:], (top, left), strict=True)
        )
        return down @ block @ right.T


def scaling(size: int, factor: float, word: int) -> NDArray[np.float64]:
    """Return the matrix (size, size) that scales one axis of a block by `factor`.

    If the block becomes smaller, the random integer `word` determines its place among zeros. If the block becomes
    larger, `word` determines which part is kept.
    """
    matrix = np.zeros((size, size))
    if factor < 1:
        small = max(1, int(size * factor))
        start = word % max(1, size - small)
        matrix[start : start + small] = resizing(size, small)
    else:
        part = min(size, max(1, round(size / factor)))
        start = word % (size - part + 1)
        matrix[:, start : start + part] = resizing(part, size)
    return matrix
