"""UN: copies of the image with uniform noise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.budget_spec import Positive
from study.attacks.component import AttackOutline
from study.attacks.components.places import without_epsilon
from study.attacks.kinds import View, ViewContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class UniformNoise(View):
    """UN: `copies` copies of the image with uniform noise within +-`beta` times epsilon.

    Li et al., NeurIPS 2023 (TA-Bench), arXiv:2311.01323, use `beta` 1.
    """

    name: ClassVar[str] = "uniform-noise"

    copies: Annotated[int, Field(ge=1, le=10_000)] = 1
    beta: Positive = 1.0

    def conflicts(self, attack: AttackOutline) -> Iterator[str]:
        yield from without_epsilon(self.name, attack)

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        assert given.epsilon is not None, "conflicts() requires an epsilon"
        return image + self.beta * given.epsilon * given.draws.uniform(image.shape[1:])
