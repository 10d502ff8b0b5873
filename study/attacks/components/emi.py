"""Enhanced momentum (EMI): the mean gradient at several places along the last mean gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.budget_spec import Positive
from study.attacks.component import AttackOutline
from study.attacks.components.normalised import by_mean
from study.attacks.components.places import not_innermost, with_adam
from study.attacks.kinds import Inner, Point, State, StepContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class EnhancedMomentum(Point):
    """Enhanced momentum (EMI): the mean gradient at d + c_i * size * n(g), where g is the last step's mean gradient.

    Source: Wang et al. 2021, arXiv:2103.10609, with the linear sampling that the authors chose. d is the perturbation,
    size is the length of a step, and n(g) is g / mean |g| for each image. In the first step, there is no g, and all
    gradients are taken at d. Views draw anew for each gradient.

    - `samples`: the number of factors c_i. They are evenly spaced from -`reach` to `reach`, both ends included;
    - `reach`: the largest factor.
    """

    name: ClassVar[str] = "emi"

    samples: Annotated[int, Field(ge=1, le=10_000)] = 11
    reach: Positive = 7.0

    def conflicts(self, attack: AttackOutline) -> Iterator[str]:
        yield from not_innermost(self.name, attack)
        yield from with_adam(self.name, attack)

    def calls(self, steps: int) -> tuple[int, int]:
        return 0, self.samples * steps

    def gradient(self, delta: Tensor, step: StepContext, inner: Inner, state: State) -> Tensor:
        import torch

        last = state.get("last")
        total = torch.zeros_like(delta)
        for sample in range(self.samples):
            place = delta if last is None else delta + self._factor(sample) * step.size * last
            total += step.gradient(step.origin + place, sample, place)
        mean = total / self.samples
        state["last"] = by_mean(mean)
        return mean

    def _factor(self, sample: int) -> float:
        if self.samples == 1:
            return 0.0
        return self.reach * (2 * sample / (self.samples - 1) - 1)
