"""Depth-first sampling: the mean gradient along a random walk that starts at the image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.budget_spec import Positive
from study.attacks.component import AttackOutline
from study.attacks.kinds import Inner, Point, State, StepContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class DepthFirstSampling(Point):
    """Depth-first sampling: the mean of the gradients at the image and at `samples` places of a random walk.

    Source: Han et al. 2023, arXiv:2307.02828. The walk starts at the image. Each place is the previous place plus
    uniform noise within `beta` times epsilon. The paper and the authors' code take `samples` + 1 gradients.
    TransferAttack takes `samples` gradients in all, including the gradient at the image.
    """

    name: ClassVar[str] = "depth-first-sampling"

    samples: Annotated[int, Field(ge=1, le=10_000)] = 12
    beta: Positive = 1.5

    def conflicts(self, attack: AttackOutline) -> Iterator[str]:
        if attack.budget.epsilon is None:
            yield "depth-first-sampling needs a budget with an epsilon"

    def calls(self, steps: int) -> tuple[int, int]:
        return steps, self.samples * steps

    def gradient(self, delta: Tensor, step: StepContext, inner: Inner, state: State) -> Tensor:
        epsilon = step.epsilon
        assert epsilon is not None, "conflicts() requires an epsilon"
        total, place = inner(delta).clone(), delta
        for sample in range(1, self.samples + 1):
            place = place + self.beta * epsilon * step.draws(self, sample).uniform(delta.shape[1:])
            total += step.gradient(step.origin + place, sample, place)
        return total / (self.samples + 1)
