"""A term of the objective that rewards smooth perturbations: perturbations that a blur hardly reduces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from study.attacks.kinds import Penalty
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor

_NOTHING = 1e-5
"""Threshold in pixel values. Means with a smaller absolute value count as 0, because they come from rounding."""


@register
class LowFrequency(Penalty):
    """A term that is added to the loss: `weight` times the sum of |R(d / 255)|, for a blur R.

    d is the perturbation. R replaces each pixel by the mean over a square of `size` x `size` pixels around the pixel.
    This is the third term of Zhou et al. 2018, "Transferable Adversarial Perturbations", ECCV 2018. In the paper, R is
    a convolution with a box of size 3 and zero padding, and `weight` is called eta. In the public code, the squares do
    not overlap, and the images are normalised by a standard deviation.
    """

    name: ClassVar[str] = "low-frequency"

    weight: Annotated[float, Field(ge=0, le=1e6)] = 0.01
    size: Annotated[int, Field(ge=1, le=255)] = 3

    @model_validator(mode="after")
    def _odd(self) -> LowFrequency:
        if self.size % 2 == 0:
            raise PydanticCustomError("parts", "`size` of low-frequency must be odd: 2k + 1 pixels")
        return self

    def gradient(self, delta: Tensor) -> Tensor:
        blurred = self._blurred(delta)
        # If pixels cancel each other out, their mean should be 0, but rounding would give it a sign. Such means are
        # therefore dropped. The box is symmetric, so R is its own adjoint: the gradient is blurred with R again.
        return self.weight / 255 * self._blurred(blurred.sign() * (blurred.abs() > _NOTHING))

    def _blurred(self, images: Tensor) -> Tensor:
        from torch.nn.functional import avg_pool2d

        return avg_pool2d(images, self.size, stride=1, padding=self.size // 2)
