"""Momentum of gradients as they are, without a norm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.kinds import State, StepContext, Update
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class PlainMomentum(Update):
    """Momentum without a norm: g <- decay g' + grad. Large gradients weigh more than small ones.

    Targeted attacks have it, such as Li et al. 2020 ("Towards Transferable Targeted Attack", CVPR 2020, section 3.2).
    """

    name: ClassVar[str] = "plain-momentum"
    main: ClassVar[str | None] = "decay"

    decay: Annotated[float, Field(gt=0, le=100)] = 1.0

    def update(self, gradient: Tensor, step: StepContext, state: State) -> Tensor:
        if "sum" in state:
            gradient = gradient + self.decay * state["sum"]
        state["sum"] = gradient
        return gradient

    def accumulated(self, state: State) -> tuple[Tensor, float] | None:
        return (state["sum"], self.decay) if "sum" in state else None
