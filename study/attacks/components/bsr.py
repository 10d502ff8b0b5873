"""Block shuffle and rotation (BSR): a view whose copies have their blocks shuffled and rotated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from study.attacks.kinds import View, ViewContext
from study.attacks.registry import register
from study.reproducibility.rng import normal_quantiles

if TYPE_CHECKING:
    from torch import Tensor


@register
class BlockShuffleRotation(View):
    """Block shuffle and rotation (BSR): rows and columns of blocks in random order, each block rotated at random.

    Source: Wang et al. 2024, arXiv:2308.10299, section 3.3. The image is cut into `blocks` x `blocks` blocks. The
    heights and widths of the blocks are in proportion to uniform random numbers. The rows of blocks are put in random
    order, and so are the columns of blocks. Each block is rotated by a random angle. Pixels are interpolated
    (bilinear). Values from outside the block are 0.

    With `variant: paper`, angles are uniform from -`angle` to `angle` degrees. With `variant: authors`, angles are
    normal with a standard deviation of `deviation` radians. An angle beyond two standard deviations is drawn again.

    Other code: The authors draw lengths and orders once for a whole batch; here, each image has its own draws.
    TransferAttack and torchattack cut 3 x 3 blocks. They cut the image into strips along one axis, rotate each strip as
    a whole, and then cut each strip at places of its own.
    """

    name: ClassVar[str] = "bsr"
    version: ClassVar[int] = 2

    copies: Annotated[int, Field(ge=1, le=10_000)] = 20
    blocks: Annotated[int, Field(ge=1, le=16)] = 2
    angle: Annotated[float, Field(ge=0, le=180)] = 24.0
    deviation: Annotated[float, Field(ge=0, le=1)] = 0.2
    variant: Literal["paper", "authors"] = "paper"

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        from study.attacks.block_turns import Strips, Turns, turned

        count = self.blocks
        words = given.draws.integers(4 * count + count**2)
        height, width = image.shape[2:]
        cuts = words[:, : 4 * count].reshape(len(words), 4, count)
        rows = Strips(_lengths(cuts[:, 0], height), np.argsort(cuts[:, 1], 1))
        columns = Strips(_lengths(cuts[:, 2], width), np.argsort(cuts[:, 3], 1))
        return turned(image, Turns(rows, columns, self._angles(words[:, 4 * count :])))

    def _angles(self, words: NDArray[np.uint64]) -> NDArray[np.float64]:
        """Return one angle in radians for each of `words`, which are random 64-bit integers."""
        shares = (words >> np.uint64(11)) / 2**53
        if self.variant == "paper":
            return math.radians(self.angle) * (2 * shares - 1)
        return self.deviation * truncated_normal(shares)


def truncated_normal(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a standard normal number in -2..2 for each of the uniform numbers `shares` in 0..1."""
    table = normal_quantiles()
    table = table[np.abs(table) <= 2]
    found: NDArray[np.float64] = table[(shares * len(table)).astype(np.int64).clip(max=len(table) - 1)]
    return found


def _lengths(words: NDArray[np.uint64], total: int) -> NDArray[np.int64]:
    """Return lengths (N, blocks), in whole pixels and in proportion to the random integers `words` (N, blocks).

    The longest block of each image is adjusted, so that the lengths of the image sum to `total`.
    """
    shares = (words >> np.uint64(11)).astype(np.float64) + 1
    lengths: NDArray[np.int64] = np.round(shares / shares.sum(1, keepdims=True) * total).astype(np.int64)
    rows = np.arange(len(lengths))
    lengths[rows, lengths.argmax(1)] += total - lengths.sum(1)
    return lengths
