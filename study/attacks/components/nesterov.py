"""Nesterov's look-ahead, NI: the gradient is taken at a place ahead of the image, along the momentum."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from study.attacks.component import AttackOutline
from study.attacks.kinds import Inner, Point, State, StepContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class Nesterov(Point):
    """Nesterov's look-ahead, NI: the gradient at delta + size * decay * m, where m is the momentum.

    Lin et al. 2020, arXiv:1908.06281, equation 6. delta is the perturbation, size is the length of a step, and decay is
    the decay of the momentum. In the first step, there is no momentum, and the gradient is taken at delta.
    """

    name: ClassVar[str] = "nesterov"

    def conflicts(self, attack: AttackOutline) -> Iterator[str]:
        if "momentum" not in attack.parts.get("update", ()):
            yield "nesterov looks ahead along the momentum, but the attack has no momentum: set `momentum`"
        if "adam" in attack.parts.get("step", ()):
            yield "nesterov measures lengths in steps: use a sign or l2 step, not Adam"

    def gradient(self, delta: Tensor, step: StepContext, inner: Inner, state: State) -> Tensor:
        if step.momentum is None:
            return inner(delta)
        return inner(delta + step.size * step.decay * step.momentum)
