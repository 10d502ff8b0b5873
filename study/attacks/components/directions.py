"""The step rules sign, l2 and Adam."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from study.attacks.kinds import State, Step, StepContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor

_BETA1, _BETA2, _ADAM_EPSILON = 0.9, 0.999, 1e-8


@register
class Sign(Step):
    """The sign of the gradient, for each pixel value."""

    name: ClassVar[str] = "sign"

    def direction(self, gradient: Tensor, step: StepContext, state: State) -> Tensor:
        return gradient.sign()


@register
class L2(Step):
    """The gradient of each image, scaled to an RMSD of 1 (the root of the mean square over its pixel values)."""

    name: ClassVar[str] = "l2"

    def direction(self, gradient: Tensor, step: StepContext, state: State) -> Tensor:
        return math.sqrt(gradient[0].numel()) * l2_normalised(gradient)


@register
class Adam(Step):
    """Adam with a learning rate of 1 (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1, with the default numbers)."""

    name: ClassVar[str] = "adam"

    def direction(self, gradient: Tensor, step: StepContext, state: State) -> Tensor:
        import torch

        count = state["count"] = state.get("count", 0) + 1
        first = state.get("first")
        second = state.get("second")
        if first is None or second is None:
            first, second = torch.zeros_like(gradient), torch.zeros_like(gradient)
        state["first"] = first = _BETA1 * first + (1 - _BETA1) * gradient
        state["second"] = second = _BETA2 * second + (1 - _BETA2) * gradient.square()
        direction: Tensor = (first / (1 - _BETA1**count)) / ((second / (1 - _BETA2**count)).sqrt() + _ADAM_EPSILON)
        return direction


def l2_normalised(gradient: Tensor) -> Tensor:
    """Divide each image's gradient (N, C, H, W) by its L2 norm. A zero gradient stays zero."""
    import torch

    # Divide by the largest entry first, because the squares of a very small gradient underflow in float32.
    peak = gradient.abs().amax((1, 2, 3), keepdim=True)
    scaled = gradient / torch.where(peak > 0, peak, 1)
    norm = torch.linalg.vector_norm(scaled, 2, dim=(1, 2, 3), keepdim=True)
    return scaled / torch.where(norm > 0, norm, 1)
