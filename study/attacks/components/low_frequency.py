"""A penalty that prefers smooth perturbations: those of which a blur leaves much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from study.attacks.kinds import Penalty
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor

_NOTHING = 1e-5
"""Pixel values: means below this are roundings of 0."""


@register
class LowFrequency(Penalty):
    """Raise `weight` times the sum of |R(delta / 255)|, R the mean over squares of `size` x `size` pixels.

    The third term of Zhou et al. 2018, "Transferable Adversarial Perturbations", ECCV 2018, R a convolution with a box
    of size 3 and zero padding; `weight` is eta there. The code in circulation has the mean of squares that do not
    overlap, and images normalised by a standard deviation.
    """

    name: ClassVar[str] = "low-frequency"

    weight: Annotated[float, Field(ge=0, le=1e6)] = 0.01
    size: Annotated[int, Field(ge=1, le=255)] = 3

    @model_validator(mode="after")
    def _odd(self) -> LowFrequency:
        if self.size % 2 == 0:
            raise PydanticCustomError("parts", "the size of the box is odd: 2k + 1 pixels")
        return self

    def gradient(self, delta: Tensor) -> Tensor:
        blurred = self._blurred(delta)
        # Rounding gives a sum of pixels that cancel each other a sign. The box is symmetric: the adjoint of R is R.
        return self.weight / 255 * self._blurred(blurred.sign() * (blurred.abs() > _NOTHING))

    def _blurred(self, images: Tensor) -> Tensor:
        from torch.nn.functional import avg_pool2d

        return avg_pool2d(images, self.size, stride=1, padding=self.size // 2)
