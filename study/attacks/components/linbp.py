"""Linear backpropagation, LinBP: gradients go unchanged through the ReLUs that run after a chosen layer."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar

from study.attacks.kinds import BackwardChange, PassDraws
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import nn


@register
class LinearBackpropagation(BackwardChange):
    """Linear backpropagation, LinBP: in the backward pass, ReLUs after `layer` have the derivative 1.

    Guo et al. 2020, arXiv:2012.03528. In a residual network, only the ReLUs inside the residual branches are changed.
    ReLUs after an addition keep their own derivative. The gradient that a branch passes to its input is then scaled,
    for each image, to the L2 norm of the true gradient. In ResNet-50, the default of `layer` is the authors' layer: the
    first block of the third stage (`layer3.0`). In other networks, the default is the middle layer. StudyError is
    raised if the network runs no ReLU after `layer` that this rule changes.

    The authors' code and TransferAttack follow the same rule, for ResNet-50 only. Both codes divide 0 by 0 if the
    gradient of a branch is 0. Here, such a gradient stays 0.
    """

    name: ClassVar[str] = "linbp"
    main: ClassVar[str | None] = "layer"

    layer: str | None = None

    def on(self, model: nn.Module, name: str, draws: PassDraws) -> AbstractContextManager[None]:
        from study.models.layers.middle import middle_layer
        from study.models.linear_relu import linear_relus

        return linear_relus(model, middle_layer(model, "linbp", self.layer))
