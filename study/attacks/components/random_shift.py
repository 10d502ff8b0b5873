"""Randomly shifted copies of the image. The kernel of translation invariance approximates the mean over such copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from study.attacks.image_operations import gathered, moved_places
from study.attacks.kinds import View, ViewContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class RandomShift(View):
    """`copies` copies of the image, each shifted at random along both axes by at most `reach` whole pixels.

    Li et al., NeurIPS 2023 (TA-Bench), arXiv:2311.01323. Pixels from outside the image are 0. The authors shift images
    instead of using the kernel of Dong et al. (arXiv:1904.02884), whose equation 5 is the mean over all shifts. In the
    authors' code, a shift is a number that is uniform within +-(`reach` + 1) pixels and is then rounded. A shift by
    `reach` + 1 is therefore possible, and half as probable as the other shifts. `variant: authors` does the same.
    """

    name: ClassVar[str] = "random-shift"

    copies: Annotated[int, Field(ge=1, le=10_000)] = 1
    reach: Annotated[int, Field(ge=1, le=512)] = 3
    variant: Literal["paper", "authors"] = "paper"

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        words = given.draws.integers(2)
        if self.variant == "paper":
            moves = (words % np.uint64(2 * self.reach + 1)).astype(np.int64) - self.reach
        else:
            moves = np.rint((words / 2.0**63 - 1) * (self.reach + 1)).astype(np.int64)
        height, width = image.shape[2:]
        return gathered(image, np.stack([moved_places(height, width, down, right) for down, right in moves.tolist()]))
