"""Linear backpropagation, LinBP: gradients pass the ReLUs of later layers unchanged."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar

from study.attacks.kinds import BackwardChange, PassDraws
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import nn


@register
class LinearBackpropagation(BackwardChange):
    """Linear backpropagation, LinBP: after `layer`, the derivative of a ReLU is 1.

    Guo et al. 2020, arXiv:2012.03528. In residual networks, this holds for the ReLUs inside the branches, but not for
    those after an addition. For each image, the gradient that a branch passes to its input keeps the L2 norm of the
    true gradient. Without `layer`, the layer is that of the authors for ResNet-50, the first block of the third stage
    (`layer3.0`), and the middle layer for other networks. A network without ReLUs after this layer raises StudyError.

    The authors' code and TransferAttack agree. Both codes support ResNet-50 only, and divide 0 by 0 where a branch has
    no gradient. Here such a gradient stays 0.
    """

    name: ClassVar[str] = "linbp"
    main: ClassVar[str | None] = "layer"

    layer: str | None = None

    def on(self, model: nn.Module, name: str, draws: PassDraws) -> AbstractContextManager[None]:
        from study.models.layers.middle import middle_layer
        from study.models.linear_relu import linear_relus

        return linear_relus(model, middle_layer(model, "linbp", self.layer))
