"""Direction tuning (DTA): the gradient of a step is the mean gradient over smaller inner steps."""

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
    """Direction tuning (DTA): the mean gradient of `inner` inner steps, each 1 / `inner` of the length of a step.

    Source: Yang et al. 2023, arXiv:2303.15109, algorithm 1. Let a be the length of the attack's step. The inner place e
    starts at the attack's perturbation. The inner momentum m starts as the attack's momentum. Each inner step has four
    parts:

    - Take the gradient at e + `ahead` * a * m;
    - Divide this gradient by its mean absolute value. The result is h;
    - Set m to h + `decay` * m;
    - Move e by a / `inner` along the sign of m, and project e onto the budget.

    The rule returns the mean of m over the inner steps. The attack's momentum must not normalise this mean again, so
    the attack needs `{momentum: {normalise: none}}`. The defaults are those of the authors' code: 10 inner steps, and
    an inner decay of 0. The default of `ahead` is 1, the decay of the outer momentum.

    Other code: TransferAttack takes one more gradient at the start of each step, and adds it without normalisation. It
    looks ahead along a sum that begins with that gradient. It has an inner decay of 0.8, inner steps of the full length
    a, and norms over the whole batch. In ten steps, TransferAttack takes 110 gradients.
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
