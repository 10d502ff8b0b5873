"""Everywhere: a view that returns the image, and copies that each keep only one block of the image."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from study.attacks.kinds import StepDraws, View, ViewContext
from study.attacks.registry import register
from study.devices.copies import uploaded

if TYPE_CHECKING:
    from torch import Tensor

Level = Annotated[float, Field(ge=0, le=255)]


@register
class Everywhere(View):
    """Everywhere attack: the image, and `samples` copies that each keep one block of a `grid` x `grid` division.

    Source: Zeng et al. 2025, arXiv:2501.00707. In each step, every image draws `samples` different blocks. Outside its
    block, a copy has the colour `fill`, in pixel values. The default colour is ImageNet's mean, which is 0 after
    normalisation.

    Other code: The authors' demo draws 9 of 16 blocks. The authors' code with CFM draws 4 of 9 blocks, and
    TransferAttack has adopted this code. Both codes of the authors draw one set of blocks for a whole batch.
    """

    name: ClassVar[str] = "everywhere"

    grid: Annotated[int, Field(ge=1, le=32)] = 4
    samples: Annotated[int, Field(ge=1, le=1024)] = 9
    fill: Annotated[tuple[Level, Level, Level], Field(strict=False)] = (123.675, 116.28, 103.53)

    @model_validator(mode="after")
    def _enough(self) -> Everywhere:
        if self.samples > self.grid**2:
            raise PydanticCustomError("parts", "`samples` of everywhere must be at most its `grid` x `grid` blocks")
        return self

    @property
    def count(self) -> int:
        return 1 + self.samples

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        import torch

        if given.copy == 0:
            return image
        row, column = np.divmod(self._blocks(given), self.grid)
        rows, columns = (
            uploaded(self._inside(size, places), image.device)
            for size, places in zip(image.shape[2:], (row, column), strict=True)
        )
        fill = uploaded(np.array(self.fill), image.device, image.dtype)[:, None, None]
        return torch.where(rows[:, None, :, None] & columns[:, None, None, :], image, fill)

    def _blocks(self, given: ViewContext) -> NDArray[np.int64]:
        """Return the index of the block that this copy keeps, for each image: (N,)."""
        assert isinstance(given.draws, StepDraws), "the draws of a view have a number"
        draws = dataclasses.replace(given.draws, number=given.draws.number - given.copy)
        return np.argsort(draws.integers(self.grid**2), axis=1)[:, given.copy - 1]

    def _inside(self, size: int, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether each row (or column) of pixels lies inside the block of each image: (N, size).

        `places` (N,) are the indices of the blocks along the axis, and `size` is the number of pixels of the axis.
        """
        starts, ends = (-(-(places + more) * size // self.grid)[:, None] for more in (0, 1))
        lines = np.arange(size)
        return (starts <= lines) & (lines < ends)
