"""Gradient norm penalty (GNP): a rule that penalises the norm of the gradient, by one finite difference."""

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
    """Gradient norm penalty (GNP): (1 + beta) g - beta g', with gradients g at d and g' at d + reach * n(g).

    Source: Wu et al. 2023, arXiv:2307.04099. d is the perturbation. n(g) is g / mean |g| for each image, as in
    TransferAttack.

    The result approximates the gradient of loss - lambda |g|, where |g| is the L2 norm. The reason is that
    (g' - g) / reach has about the direction of the gradient of |g|. lambda is beta * reach * |g| / mean |g|. If n(g)
    were g / |g|, lambda would be beta * reach.

    - `reach`: the mean absolute difference between the two images at which g and g' are taken, in pixel values. The
      default is 0.01 of 255;
    - `beta`: the weight of the penalty;
    - `variant`: `paper` subtracts the penalty. `transferattack` returns (1 + beta) g + beta g', as in TransferAttack,
      and so rewards a large norm.
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
