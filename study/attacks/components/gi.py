"""Global momentum initialisation (GI): some long steps build up the momentum, and then the attack starts again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from study.attacks.budget_spec import Positive
from study.attacks.component import AttackOutline
from study.attacks.kinds import State, Step, StepContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class GlobalMomentum(Step):
    """Global momentum initialisation (GI): sign steps, of which the first `warmup` steps are `factor` times as long.

    Source: Wang et al. 2022, arXiv:2211.11236, algorithm 1. After the warm-up, the attack returns to its first image,
    and keeps the momentum. The attack's `steps` include the warm-up. An attack with at most `warmup` steps does not
    return to its first image.

    - `warmup`: the number of long steps;
    - `factor`: the length of a long step, in multiples of the attack's step size;
    - `variant`: the image at which the first gradient after the warm-up is taken. With `paper`, it is the attack's
      first image, as in TransferAttack. With `authors`, it is the image at the end of the warm-up, as in the authors'
      code.
    """

    name: ClassVar[str] = "gi"

    warmup: Annotated[int, Field(ge=1, le=10_000)] = 5
    factor: Positive = 10.0
    variant: Literal["paper", "authors"] = "paper"

    @property
    def preparing_steps(self) -> int:
        return self.warmup

    def conflicts(self, attack: AttackOutline) -> Iterator[str]:
        if "summed-updates" in attack.parts.get("ensemble", ()):
            yield "gi begins again for all source models at once: it cannot be combined with `fusion: summed-updates`"

    def direction(self, gradient: Tensor, step: StepContext, state: State) -> Tensor:
        start: Tensor = state.setdefault("start", step.delta)
        sign = gradient.sign()
        back: Tensor = (start - step.delta) / step.size
        if self.variant == "authors" and step.step == self.warmup:
            return back + sign
        if self.variant == "paper" and step.step == self.warmup - 1 and step.step + 1 < step.steps:
            return back
        return self.factor * sign if step.step < self.warmup else sign
