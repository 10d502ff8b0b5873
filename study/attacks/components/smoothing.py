"""Smoothed gradients, SG: copies of the image with Gaussian noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.budget_spec import Positive
from study.attacks.kinds import View, ViewContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor

Copies = Annotated[int, Field(ge=1, le=10_000)]


@register
class Smoothing(View):
    """Smoothed gradients, SG: `copies` copies with Gaussian noise of the standard deviation `sigma`, in pixel values.

    Wu et al. 2019, "Exploring and Enhancing the Transferability of Adversarial Examples", equation 8. The attack
    averages the gradients over the copies. The paper calls the number of copies m.
    """

    name: ClassVar[str] = "smoothing"
    streams: ClassVar[str | None] = "gaussian"

    copies: Copies = 20
    sigma: Positive = 15.0

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        return image + self.sigma * given.draws.normal(image.shape[1:])
