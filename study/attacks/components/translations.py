"""Translations, ANDA's views: the image shifted to the places of a square grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from study.attacks.kinds import View, ViewContext
from study.attacks.registry import register
from study.devices.copies import uploaded
from study.devices.tables import kept

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@register
class Translations(View):
    """`side` x `side` copies of the image, shifted by up to `reach` half widths right and left, up and down.

    Fang et al. 2024 (ANDA), arXiv:2209.11964, algorithm 1: 25 copies, shifts evenly spaced in +-0.3 of half the width.
    Shifts need not be whole numbers of pixels: values between pixels are bilinear, and values from outside the image
    are 0. Every step makes all copies, so that nothing is drawn.

    ANDA averages the gradients of all copies of all steps so far. That mean has the sign of their sum, which is a
    momentum of decay 1 that is not normalised. The paper can also end with a draw from the normal distribution of these
    gradients; this is not implemented.
    """

    name: ClassVar[str] = "translations"
    main: ClassVar[str | None] = "side"

    side: Annotated[int, Field(ge=1, le=64)] = 5
    reach: Annotated[float, Field(gt=0, le=1)] = 0.3

    @property
    def count(self) -> int:
        return self.side**2

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        shifts = np.linspace(-self.reach, self.reach, self.side) if self.side > 1 else np.zeros(1)
        across, down = shifts[given.copy // self.side], shifts[given.copy % self.side]

        def matrix(shift: float, size: int) -> Tensor:
            found = _matrix(shift * size / 2, size, image.device, image.dtype)
            # One product for each image: the rounding of one product for the whole batch may depend on its size.
            return found.expand(len(image), 1, size, size)

        height, width = image.shape[-2:]
        return matrix(down, height) @ image @ matrix(across, width).transpose(-1, -2)


@kept
def _matrix(shift: float, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return uploaded(_shifting(shift, size), device, dtype)


def _shifting(shift: float, size: int) -> NDArray[np.float64]:
    """The matrix (size, size) that reads each value `shift` pixels further along an axis: linear, and 0 outside."""
    places = np.arange(size) + shift
    near = np.abs(places[:, None] - np.arange(size)[None])
    weights: NDArray[np.float64] = (1 - near).clip(min=0)
    return weights
