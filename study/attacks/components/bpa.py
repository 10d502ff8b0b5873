"""Backward propagation attack (BPA): in the backward pass, ReLUs and max-poolings have smoother derivatives."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from study.attacks.kinds import BackwardChange, PassDraws
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import nn


@register
class SmoothBackward(BackwardChange):
    """Backward propagation attack (BPA): smooth derivatives for the ReLUs after `layer`, and for all max-poolings.

    Source: Wang et al. 2023, arXiv:2306.12685. The derivative of a ReLU becomes the derivative of x sigmoid(x). This
    includes the ReLU after the addition at the end of a residual block. Each max-pooling distributes the gradient of a
    window over all pixels of the window. The shares of the pixels are softmax(`temperature` * pixel). The authors use a
    temperature of 10 for ResNet-50, and of 1 for VGG-19.

    - `layer`: by default, the authors' layer for ResNet-50, which is the first block of the third stage (`layer3.0`).
      For other networks, the default is the middle layer.

    A window of a max-pooling may extend beyond the border of the image. Pixels outside the image get no share. In the
    authors' code and in TransferAttack, pixels outside count as zeros, and the gradient of their share is lost.
    `variant: authors` does the same.

    TransferAttack changes only the first ReLU of a block. In its code, a bottleneck runs without its third convolution.
    """

    name: ClassVar[str] = "bpa"
    main: ClassVar[str | None] = "layer"

    layer: str | None = None
    temperature: Annotated[float, Field(gt=0, le=1000)] = 10.0
    variant: Literal["paper", "authors"] = "paper"

    def on(self, model: nn.Module, name: str, draws: PassDraws) -> AbstractContextManager[None]:
        from study.models.layers.middle import middle_layer
        from study.models.smooth_backward import smooth_backward

        border = -math.inf if self.variant == "paper" else 0.0
        after = middle_layer(model, "bpa", self.layer)
        return smooth_backward(model, after, temperature=self.temperature, border=border)
