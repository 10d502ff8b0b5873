"""Look-ahead along the pre-gradient, PI: the gradient is taken ahead, along the gradient of the last step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from study.attacks.budget_spec import Positive
from study.attacks.component import AttackOutline
from study.attacks.components.normalised import by_mean
from study.attacks.components.places import with_adam
from study.attacks.kinds import Inner, Point, State, StepContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class PreGradient(Point):
    """Look-ahead along the pre-gradient, PI: the gradient at delta + reach * size * n(g), for the last gradient g.

    Wang et al. 2021, arXiv:2103.10609. g is the gradient of the last step, delta is the perturbation, and size is the
    length of a step. n(g) = g / mean |g| for each image, as in the attack EMI of the same paper. With `reach` 1, the
    look-ahead moves a pixel by the length of a step, on average. The first step has no look-ahead.

    - `reach`: the length of the look-ahead, in steps.
    """

    name: ClassVar[str] = "pre_gradient"
    main: ClassVar[str | None] = "reach"

    reach: Positive = 1.0

    def conflicts(self, attack: AttackOutline) -> Iterator[str]:
        yield from with_adam(self.name, attack)

    def gradient(self, delta: Tensor, step: StepContext, inner: Inner, state: State) -> Tensor:
        last = state.get("last")
        gradient = inner(delta if last is None else delta + self.reach * step.size * last)
        state["last"] = by_mean(gradient)
        return gradient
