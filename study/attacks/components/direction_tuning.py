"""Direction tuning, DTA: the gradient of a step is the mean gradient of small steps within it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.components.normalised import by_mean
from study.attacks.kinds import Inner, Point, State, StepContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class DirectionTuning(Point):
    """Direction tuning, DTA: the mean gradient of `inner` inner steps, each 1 / `inner` of the step's size.

    Yang et al. 2023, arXiv:2303.15109, algorithm 1. An inner step takes the gradient at its place plus `ahead` times
    the step's size times the inner momentum. It divides this gradient by its mean absolute value, and adds `decay`
    times the inner momentum; the result is the new inner momentum. The place moves along the sign of the inner
    momentum. The inner momentum starts as the attack's momentum. The rule's gradient is the mean of the inner momenta.
    The attack's momentum must not normalise this mean again: `{momentum: {normalise: none}}`.

    Defaults are those of the authors' code: K = 10 inner steps, inner decay 0, and `ahead` is the outer decay of 1.

    TransferAttack takes another gradient at the start of each step and adds it unnormalised. It looks ahead along a sum
    that begins with that gradient. It has an inner decay of 0.8, whole steps in place of 1 / K, and norms over the
    whole batch. It takes 110 gradients.
    """

    name: ClassVar[str] = "direction-tuning"

    inner: Annotated[int, Field(ge=1, le=1000)] = 10
    decay: Annotated[float, Field(ge=0, le=100)] = 0.0
    ahead: Annotated[float, Field(ge=0, le=100)] = 1.0

    def calls(self, steps: int) -> tuple[int, int]:
        return steps, steps * (self.inner - 1)

    def gradient(self, delta: Tensor, step: StepContext, inner: Inner, state: State) -> Tensor:
        import torch

        momentum = torch.zeros_like(delta) if step.momentum is None else step.momentum
        place, total = delta, torch.zeros_like(delta)
        for number in range(self.inner):
            ahead = place + step.size * self.ahead * momentum
            found = step.gradient(step.origin + ahead, number, ahead) if number else inner(ahead)
            momentum = by_mean(found) + self.decay * momentum
            total += momentum
            place = step.project(place + step.size / self.inner * momentum.sign())
        return total / self.inner
