"""Direction tuning, DTA: small steps within each step, whose mean gradient is the step's."""

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
    """Direction tuning, DTA: `inner` steps of a `inner`-th of the step's size; the mean of their gradients.

    Yang et al. 2023, arXiv:2303.15109, algorithm 1. An inner step takes the gradient at its place plus `ahead` times
    the step's size times the inner momentum, divides it by its mean and adds `decay` times the inner momentum, which
    begins as the attack's. That momentum must not normalise the mean again: `{momentum: {normalise: none}}`.

    As the authors' code: K = 10 inner steps, inner decay 0, and `ahead` is the outer decay of 1. TransferAttack takes
    another gradient at the start of each step and adds it unnormalised, looks ahead along a sum that begins with that
    gradient, has an inner decay of 0.8, whole steps in place of a K-th, and divides by norms over the whole batch: 110
    gradients.
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
