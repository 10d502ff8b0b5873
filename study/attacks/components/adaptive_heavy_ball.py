"""AdaMSI: a step rule with an adaptive step length and heavy-ball momentum. This rule replaces the sign step."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from study.attacks.budget_spec import Positive
from study.attacks.kinds import State, Step, StepContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor

_FLOOR = 1e-16


@register
class AdaptiveHeavyBall(Step):
    """AdaMSI-FGM: x_{t+1} = clip(x_t + size g_t / V_t + beta_t (x_t - x_{t-1})), without a sign function.

    Source: Long et al. 2024, "On the Convergence of an Adaptive Momentum Method for Adversarial Attacks", AAAI 2024.
    The steps are t = 1, 2, .... The symbols are:

    - x_t: the image before step t; clip: the projection onto the budget; size: the length of a step;
    - g_t: the gradient at x_t, computed for images in 0..1;
    - V_t: the square root of the mean of g_1^2, ..., g_t^2, plus 1e-16 / sqrt(t), for each pixel value;
    - beta_t = s_{t-1} / (s_t + 1), where s_t = `factor` t^2 |g_t|_1 and s_0 = 0. The paper calls `factor` lambda.

    The authors published no code, so the default of `factor` is that of TransferAttack. The step of TransferAttack has
    no heavy ball: it uses the clean image in place of x_{t-1}. TransferAttack also multiplies the last term by the
    length of a step, and accumulates the directions with decay 1.
    """

    name: ClassVar[str] = "adaptive-heavy-ball"
    main: ClassVar[str | None] = "factor"

    factor: Positive = 0.6

    def direction(self, gradient: Tensor, step: StepContext, state: State) -> Tensor:
        import torch

        count = state["count"] = state.get("count", 0) + 1
        # The authors take gradients for images in 0..1. The number 1 in beta_t is meant for gradients in this unit.
        scaled = 255 * gradient
        squares = scaled.square() if count == 1 else state["squares"] + (scaled.square() - state["squares"]) / count
        norm = torch.linalg.vector_norm(scaled, 1, dim=(1, 2, 3), keepdim=True)
        weight = self.factor * count**2 * norm
        direction: Tensor = scaled / (squares.sqrt() + _FLOOR / count**0.5)
        if count > 1:
            ball = state["weight"] / (weight + 1)
            direction = direction + ball * (step.delta - state["last"]) / step.size
        state.update(squares=squares, weight=weight, last=step.delta)
        return direction
