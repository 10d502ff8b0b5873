"""Patch-wise steps, PI-FGSM: long steps, whose excess beyond epsilon also moves the surrounding pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from study.attacks.budget_spec import Positive
from study.attacks.component import AttackOutline
from study.attacks.components.places import without_epsilon
from study.attacks.kinds import State, Step, StepContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class PatchWise(Step):
    """Patch-wise steps, PI-FGSM: sign steps of `factor` times the usual length, whose excess moves surrounding pixels.

    Gao et al. 2020, arXiv:2007.06765, algorithm 1. For each pixel, the rule keeps the sum of all moves of the pixel,
    without a limit. The excess of a pixel is the part of this sum beyond +-epsilon. The neighbours of a pixel are the
    other pixels in a square around this pixel. Each pixel moves by the sign step, and also by the sign of the summed
    excess of its neighbours.

    - `factor`: the length of the sign step, in multiples of the attack's step size;
    - `spread`: the length of the move by the neighbours' excess, in multiples of the sign step of this rule. The
      authors' code has 1: both lengths are equal, and are 16 (of 255) with the authors' parameters. In TransferAttack,
      the move has the length 16 for any budget;
    - `width`: the side of the square of neighbours, in pixels.
    """

    name: ClassVar[str] = "patch-wise"

    factor: Positive = 10.0
    spread: Positive = 1.0
    width: Annotated[int, Field(ge=3, le=511)] = 3

    @model_validator(mode="after")
    def _odd(self) -> PatchWise:
        if self.width % 2 == 0:
            raise PydanticCustomError("parts", "`width` must be odd, so that a pixel is in the middle of its square")
        return self

    def conflicts(self, attack: AttackOutline) -> Iterator[str]:
        yield from without_epsilon(self.name, attack)

    def direction(self, gradient: Tensor, step: StepContext, state: State) -> Tensor:
        epsilon = step.epsilon
        assert epsilon is not None, "conflicts() requires an epsilon"
        length = self.factor * step.size
        long = length * gradient.sign()
        total = long + state["sum"] if "sum" in state else long
        beyond = (total.abs() - epsilon).clamp(min=0) * total.sign()
        spread = self.spread * length * around(beyond, self.width).sign()
        state["sum"] = total + spread
        return (long + spread) / step.size


def around(values: Tensor, width: int) -> Tensor:
    """Return, for each pixel, the sum of its neighbours in a `width` x `width` square, without the pixel itself.

    `values` and the result are (N, C, H, W). Outside the image, values are 0.
    """
    import torch

    # The paper takes the mean. The sum has the same sign, and whole numbers stay exact, so a sum of 0 has the sign 0.
    whole = torch.nn.functional.avg_pool2d(values, width, 1, width // 2, divisor_override=1)
    return whole - values
