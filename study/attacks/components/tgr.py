"""Token gradient regularization, TGR: in a transformer, gradients are damped, and those of extreme tokens become 0."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from study.attacks.kinds import BackwardChange, PassDraws
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor, nn

Factor = Annotated[float, Field(ge=0, le=10)]


@register
class TokenGradients(BackwardChange):
    """Token gradient regularization, TGR: in transformers, gradients of attention, QKV and MLPs lose their extremes.

    Zhang et al. 2023, arXiv:2303.15754. The gradient of each attention map is multiplied by `attention`. In each head,
    the rows and columns of this gradient that contain its largest and its smallest entry are set to 0. Gradients of
    queries, keys and values are multiplied by `qkv`, and gradients of the MLPs' outputs by `mlp`. In each channel, the
    gradients of the tokens with the largest and the smallest gradient are set to 0. The extremes are found for each
    image.

    The paper changes the gradient of the attention map. The hooks of torchattack, which follow the authors' code,
    change the gradient of the scores before the softmax instead. `variant: authors` does the same. torchattack uses the
    extremes of the first image for the whole batch, so it needs batches of one image. With torch 2, torchattack treats
    the tokens of all images as one sequence. The map of CaiT's class attention has only one query. Here, only columns
    (keys) of the gradient of this map are therefore set to 0.
    """

    name: ClassVar[str] = "tgr"

    attention: Factor = 0.25
    qkv: Factor = 0.75
    mlp: Factor = 0.5
    variant: Literal["paper", "authors"] = "paper"

    def on(self, model: nn.Module, name: str, draws: PassDraws) -> AbstractContextManager[None]:
        from study.models.token_gradients import EXTREMES, Sort, changed_tokens, transformer_of

        factors: Mapping[Sort, float] = {"maps": self.attention, "qkv": self.qkv, "mlps": self.mlp}

        def damp(sort: Sort, _: str, gradient: Tensor) -> Tensor:
            return EXTREMES[sort](factors[sort] * gradient, gradient.new_zeros(()))

        at: Literal["map", "scores"] = "map" if self.variant == "paper" else "scores"
        return changed_tokens(model, transformer_of(model, "tgr"), damp, at)
