"""Momentum, MI: gradients accumulated from step to step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from study.attacks.kinds import State, StepContext, Update
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class Momentum(Update):
    """Momentum, MI: g <- decay g' + grad / mean |grad| (Dong et al. 2018, arXiv:1710.06081, equation 6).

    The equation has the L1 norm, the authors' code the mean, which is smaller by the factor of the number of pixels.
    The factor changes no sign or l2 step, but it changes Nesterov's look-ahead. With `norm: none` gradients are added
    up as they are, as some later attacks do.
    """

    name: ClassVar[str] = "momentum"
    main: ClassVar[str | None] = "decay"

    decay: Annotated[float, Field(gt=0, le=100)] = 1.0
    norm: Literal["l1", "none"] = "l1"

    def update(self, gradient: Tensor, step: StepContext, state: State) -> Tensor:
        import torch

        if self.norm == "none":
            gradient = gradient.clone()
        else:
            mean = torch.linalg.vector_norm(gradient, 1, dim=(1, 2, 3), keepdim=True) / gradient[0].numel()
            gradient = gradient / torch.where(mean > 0, mean, 1)
        if "sum" in state:
            gradient += state["sum"].mul_(self.decay)
        state["sum"] = gradient
        return gradient

    def accumulated(self, state: State) -> tuple[Tensor, float] | None:
        return (state["sum"], self.decay) if "sum" in state else None
