"""AdaMSI: an adaptive step with heavy-ball momentum in place of the sign."""

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
    """AdaMSI-FGM: x_{t+1} = clip(x_t + size g_t / V_t + beta_t (x_t - x_{t-1})), without a sign.

    Long et al. 2024, "On the Convergence of an Adaptive Momentum Method for Adversarial Attacks", AAAI 2024. In step
    t = 1, 2, ..., g_t is the gradient, for images in 0..1, `size` is the length of a step, and clip projects onto the
    budget. V_t is the root of the mean of all squared gradients so far, plus 1e-16 / sqrt(t). beta_t is
    s_{t-1} / (s_t + 1), with s_t = `factor` t^2 |g_t|_1 and s_0 = 0. The paper calls `factor` lambda.

    The authors published no code, so the numbers are those of TransferAttack. TransferAttack's step is no heavy ball:
    it uses the clean image in place of x_{t-1}, and multiplies the last term by the size of the step. It also
    accumulates the directions with decay 1.
    """

    name: ClassVar[str] = "adaptive-heavy-ball"
    main: ClassVar[str | None] = "factor"

    factor: Positive = 0.6

    def direction(self, gradient: Tensor, step: StepContext, state: State) -> Tensor:
        import torch

        count = state["count"] = state.get("count", 0) + 1
        # The authors' gradients are for images in 0..1. The 1 in beta has the unit of these gradients.
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
