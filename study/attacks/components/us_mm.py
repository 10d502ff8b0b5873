"""Uniform scale and mix mask, US-MM: scaled copies, multiplied by masks made of other images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from study.attacks.kinds import View, ViewContext, at_view
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor

Scale = Annotated[float, Field(gt=0, le=1)]


@register
class UniformScaleMixMask(View):
    """Uniform scale and mix mask, US-MM: gradients at scale * image * ((1 - r) + 2 r x'), clipped to 0..255.

    Wang et al. 2023, arXiv:2311.12051. There are `scales` scales, at equal distances from `low` to `high`. Each scale
    is combined with `masks` masks, so there are `scales` x `masks` copies. r is `mix`. x' is an image with values in
    0..1. x' is drawn anew for every copy, image and step, from a pool of `pool` selected images of the study, which may
    contain the image itself. The gradient at the copy is used as the gradient at the image.

    TransferAttack draws x' from the adversarial images of the batch, so its results depend on the batch.
    """

    name: ClassVar[str] = "us-mm"

    scales: Annotated[int, Field(ge=1, le=100)] = 5
    low: Scale = 0.1
    high: Scale = 0.75
    masks: Annotated[int, Field(ge=1, le=100)] = 3
    mix: Annotated[float, Field(ge=0, le=1)] = 0.5
    pool: Annotated[int, Field(ge=2, le=1000)] = 32

    @model_validator(mode="after")
    def _ordered(self) -> UniformScaleMixMask:
        if self.low > self.high:
            raise PydanticCustomError("parts", "`low` of us-mm is above its `high`")
        return self

    @property
    def count(self) -> int:
        return self.scales * self.masks

    @property
    def others(self) -> int:
        return self.pool

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        import torch

        from study.reproducibility.words import below

        pool = given.pool
        assert pool is not None, "an attack with a component that declares `others` has a pool"
        chosen = below(given.draws.words(1)[:, 0], len(pool.pixels))
        share = given.copy % self.scales / max(1, self.scales - 1)
        scale = self.low + (self.high - self.low) * share
        with torch.no_grad():
            other = pool.taken(chosen, image.dtype)
            mask = (1 - self.mix) + 2 * self.mix / 255 * other
            view = (scale * image * mask).clamp_(0, 255)
        return at_view(image, view)
