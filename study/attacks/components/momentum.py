"""Momentum, MI: an update that accumulates gradients from step to step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from study.attacks.components.directions import l2_normalised
from study.attacks.components.normalised import by_mean
from study.attacks.kinds import State, StepContext, Update
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class Momentum(Update):
    """Momentum, MI: m <- decay m + g / mean |g|, with the gradient g (Dong et al. 2018, arXiv:1710.06081, equation 6).

    m replaces the gradient in the step. Equation 6 divides g by its L1 norm. The authors' code divides g by the mean of
    |g|, which is the L1 norm divided by the number of pixel values. The choice between these two divisors changes no
    sign step and no l2 step, but it changes the length of Nesterov's look-ahead. `normalise` names the divisor of g:
    `mean` for the mean of |g|, `l1` or `l2` for a norm, or `none` for no division, as in Zhao et al. 2021,
    arXiv:2012.11207.
    """

    name: ClassVar[str] = "momentum"
    main: ClassVar[str | None] = "decay"

    decay: Annotated[float, Field(gt=0, le=100)] = 1.0
    normalise: Literal["mean", "l1", "l2", "none"] = "mean"

    def update(self, gradient: Tensor, step: StepContext, state: State) -> Tensor:
        gradient = self._normalised(gradient)
        if "sum" in state:
            gradient = gradient + self.decay * state["sum"]
        state["sum"] = gradient
        return gradient

    def accumulated(self, state: State) -> tuple[Tensor, float] | None:
        return (state["sum"], self.decay) if "sum" in state else None

    def _normalised(self, gradient: Tensor) -> Tensor:
        match self.normalise:
            case "mean":
                return by_mean(gradient)
            case "l1":
                return by_mean(gradient) / gradient[0].numel()
            case "l2":
                return l2_normalised(gradient)
            case "none":
                return gradient
