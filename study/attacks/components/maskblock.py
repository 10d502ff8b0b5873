"""MaskBlock: copies of the image, each with one block set to black."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.kinds import View, ViewContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class MaskBlock(View):
    """MaskBlock: `grid` x `grid` copies of the image, each with a different block of the image set to 0.

    Fan et al. 2022, arXiv:2208.06538. The image is divided into `grid` x `grid` blocks. With the default `grid: 4`, an
    image of 224 x 224 pixels has blocks of 56 x 56 pixels, as in TransferAttack. In TransferAttack, a larger image has
    more blocks, and pixels after the last whole block are never set to 0.
    """

    name: ClassVar[str] = "maskblock"
    main: ClassVar[str | None] = "grid"

    grid: Annotated[int, Field(ge=1, le=32)] = 4

    @property
    def count(self) -> int:
        return self.grid**2

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        row, column = divmod(given.copy, self.grid)
        height, width = image.shape[2:]
        mask = image.new_ones(1, 1, height, width)
        top, bottom = (round(one * height / self.grid) for one in (row, row + 1))
        left, right = (round(one * width / self.grid) for one in (column, column + 1))
        mask[..., top:bottom, left:right] = 0
        return image * mask
