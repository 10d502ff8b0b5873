"""Translations, the views of ANDA: copies of the image, shifted to the places of a square grid."""

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
    """`side` x `side` copies of the image, shifted along each axis by at most `reach` times half of the image's size.

    Fang et al. 2024 (ANDA), arXiv:2209.11964, use 25 copies in algorithm 1. Their shifts are evenly spaced within +-0.3
    times half of the size. A shift need not be a whole number of pixels. Values between pixels are interpolated
    bilinearly, and values from outside the image are 0. Every step makes all copies, so nothing is drawn at random.

    ANDA averages the gradients of all copies of all steps so far. The mean has the same sign as the sum of these
    gradients, so a momentum with decay 1 and no normalisation gives the same step. The paper's attack can also end with
    a draw from the normal distribution of these gradients. This draw is not implemented.
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
            # Each image has its own product. The rounding of a product for the whole batch could depend on the batch
            # size.
            return found.expand(len(image), 1, size, size)

        height, width = image.shape[-2:]
        return matrix(down, height) @ image @ matrix(across, width).transpose(-1, -2)


@kept
def _matrix(shift: float, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return uploaded(_shifting(shift, size), device, dtype)


def _shifting(shift: float, size: int) -> NDArray[np.float64]:
    """Return the matrix (size, size) that moves values along an axis: position i gets the value at i + `shift`.

    The interpolation is linear, and values outside the axis are 0.
    """
    places = np.arange(size) + shift
    near = np.abs(places[:, None] - np.arange(size)[None])
    weights: NDArray[np.float64] = (1 - near).clip(min=0)
    return weights
