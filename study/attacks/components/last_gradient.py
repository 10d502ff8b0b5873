"""Look-ahead along the last gradient, in place of the momentum."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from study.attacks.kinds import Inner, Point, State, StepContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class LastGradient(Point):
    """The gradient at delta + size * decay * g, g the last step's gradient divided by its mean absolute value.

    Wang et al. 2021, arXiv:2103.10609, equation 7, named PI-FGSM there. `decay` is the momentum's, 1 without momentum.
    """

    name: ClassVar[str] = "last-gradient"

    def gradient(self, delta: Tensor, step: StepContext, inner: Inner, state: State) -> Tensor:
        import torch

        last = state.get("last")
        gradient = inner(delta if last is None else delta + step.size * (step.decay or 1.0) * last)
        mean = gradient.abs().mean((1, 2, 3), keepdim=True)
        state["last"] = gradient / torch.where(mean > 0, mean, 1)
        return gradient
