"""Reverse adversarial perturbation, RAP: the gradient at the place near the image where the loss is lowest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.budget_spec import Length
from study.attacks.kinds import Inner, Point, State, StepContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class ReversePerturbation(Point):
    """Reverse adversarial perturbation, RAP: the gradient at delta + r, where r is a perturbation that lowers the loss.

    Qin et al. 2022, arXiv:2210.05968, algorithm 1. delta is the attack's perturbation. In every step, r starts at
    random, uniform within +-`radius`. Then r takes `inner_steps` sign steps down the loss. r stays within +-`radius`,
    and the image stays within 0..255.

    - `radius`: the largest absolute value of r, in pixel values;
    - `inner_steps`, `inner_size`: the number of the steps of r, and their length in pixel values;
    - `begin`: the first `begin` steps of the attack use no r. The paper calls this a late start (RAP-LS).
    """

    name: ClassVar[str] = "rap"

    radius: Length = 16.0
    inner_steps: Annotated[int, Field(ge=1, le=10_000)] = 8
    inner_size: Length = 2.0
    begin: Annotated[int, Field(ge=0, le=100_000)] = 0

    def calls(self, steps: int) -> tuple[int, int]:
        return steps, self.inner_steps * max(0, steps - self.begin)

    def gradient(self, delta: Tensor, step: StepContext, inner: Inner, state: State) -> Tensor:
        return inner(delta if step.step < self.begin else delta + self._reverse(delta, step))

    def _reverse(self, delta: Tensor, step: StepContext) -> Tensor:
        image = step.origin + delta
        low, high = (-image).clamp(min=-self.radius), (255 - image).clamp(max=self.radius)
        reverse = (self.radius * step.draws(self).uniform(delta.shape[1:])).clamp(low, high)
        for sample in range(1, self.inner_steps + 1):
            place = delta + reverse
            downhill = -step.gradient(step.origin + place, sample, place).sign()
            reverse = (reverse + self.inner_size * downhill).clamp(low, high)
        return reverse
