"""A penalty term that rewards smooth perturbations, which a blur hardly reduces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from study.attacks.kinds import Penalty
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor

_NOTHING = 1e-5
"""Means with a smaller absolute value, in pixel values, count as 0: they come from rounding."""


@register
class LowFrequency(Penalty):
    """Raise `weight` times the sum of |R(delta / 255)|, where R is the mean over squares of `size` x `size` pixels.

    This is the third term of Zhou et al. 2018, "Transferable Adversarial Perturbations", ECCV 2018. There, R is a
    convolution with a box of size 3 and zero padding, and `weight` is called eta. The code in circulation takes the
    mean of squares that do not overlap, and of images that are normalised by a standard deviation.
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
        # Where pixels cancel each other out, rounding would give their sum a sign. The box is symmetric: the adjoint of
        # R is R.
        return self.weight / 255 * self._blurred(blurred.sign() * (blurred.abs() > _NOTHING))

    def _blurred(self, images: Tensor) -> Tensor:
        from torch.nn.functional import avg_pool2d

        return avg_pool2d(images, self.size, stride=1, padding=self.size // 2)
