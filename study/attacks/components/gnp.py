"""Gradient norm penalty, GNP: a penalty on the gradient's norm, by one finite difference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from study.attacks.budget_spec import Positive
from study.attacks.components.normalised import by_mean
from study.attacks.kinds import Inner, Point, State, StepContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class GradientNormPenalty(Point):
    """A penalty on the gradient's norm, GNP: (1 + beta) g - beta g', where g' is the gradient at delta + reach * n(g).

    Wu et al. 2023, arXiv:2307.04099. g is the gradient at delta. The result is the gradient of loss - lambda |g|,
    because (g' - g) / reach has about the direction of the gradient of |g|. n(g) = g / mean |g| of each image, as in
    TransferAttack, so lambda is beta * reach * |g| / mean |g|. With n(g) = g / |g|, lambda would be beta * reach.

    - `reach`: the mean absolute difference between the two places, in pixel values (0.01 of 255);
    - `beta`: the weight of the penalty;
    - `variant`: `paper` subtracts the penalty; `transferattack` is (1 + beta) g + beta g', as in TransferAttack, which
      rewards a large norm instead.
    """

    name: ClassVar[str] = "gnp"

    reach: Positive = 2.55
    beta: Annotated[float, Field(gt=0, le=100)] = 0.8
    variant: Literal["paper", "transferattack"] = "paper"

    def calls(self, steps: int) -> tuple[int, int]:
        return steps, steps

    def gradient(self, delta: Tensor, step: StepContext, inner: Inner, state: State) -> Tensor:
        here = inner(delta)
        ahead = delta + self.reach * by_mean(here)
        there = step.gradient(step.origin + ahead, 1, ahead)
        share = -self.beta if self.variant == "paper" else self.beta
        return (1 + self.beta) * here + share * there
