"""Variance tuning, VT: the gradient plus the variance of gradients around the image of the last step."""

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
class Variance(Point):
    """Variance tuning, VT: the gradient plus the last step's gradient variance, from `samples` random neighbours.

    Wang and He 2021, arXiv:2103.15571, equation 5. Neighbours of an image are uniform within +-`beta` times epsilon
    around the image. The variance of a step is the mean gradient at these neighbours, minus the gradient at the image.
    In the first step, no variance is added.
    """

    name: ClassVar[str] = "variance"

    samples: Annotated[int, Field(ge=1, le=10_000)] = 20
    beta: Positive = 1.5

    def conflicts(self, attack: AttackOutline) -> Iterator[str]:
        if attack.budget.epsilon is None:
            yield "variance needs a budget with an epsilon"

    def calls(self, steps: int) -> tuple[int, int]:
        return steps, self.samples * max(0, steps - 1)

    def gradient(self, delta: Tensor, step: StepContext, inner: Inner, state: State) -> Tensor:
        gradient = inner(delta)
        last = state.pop("variance", None)
        if step.step + 1 < step.steps:
            state["variance"] = self._neighbours(delta, step) - gradient
        return gradient if last is None else gradient + last

    def _neighbours(self, delta: Tensor, step: StepContext) -> Tensor:
        """Return the mean gradient (N, C, H, W) at random neighbours, uniform within +-`beta` times epsilon."""
        import torch

        epsilon = step.epsilon
        assert epsilon is not None, "conflicts() requires an epsilon"
        total = torch.zeros_like(delta)
        for sample in range(1, self.samples + 1):
            away = step.draws(self, sample).uniform(delta.shape[1:])
            total += step.gradient(step.origin + delta + self.beta * epsilon * away, sample)
        return total / self.samples
