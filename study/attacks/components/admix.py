"""Admix: a view that makes copies of the image and adds a part of an image of another class to each copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.kinds import View, ViewContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class Admix(View):
    """Admix: makes `copies` copies of the image, and adds `strength` times an image of another class to each copy.

    Source: Wang et al. 2021, arXiv:2102.00436, equation 3. The images of other classes are drawn from a pool of `pool`
    images of the study. The study's seed determines which images are in the pool.
    """

    name: ClassVar[str] = "admix"

    copies: Annotated[int, Field(ge=1, le=10_000)] = 3
    strength: Annotated[float, Field(gt=0, le=1)] = 0.2
    pool: Annotated[int, Field(ge=2, le=1000)] = 32

    @property
    def others(self) -> int:
        return self.pool

    @property
    def reads_true_labels(self) -> bool:
        return True

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        return image + self.strength * self._others(image, given)

    def _others(self, image: Tensor, given: ViewContext) -> Tensor:
        pool = given.pool
        assert pool is not None, "an attack with a component that declares `others` has a pool"
        return pool.taken(pool.of_other_labels(given.true, given.draws.words(1)[:, 0]), image.dtype)
