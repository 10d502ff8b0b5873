"""Token gradient regularization, TGR: gradients in a transformer are damped, and those of extreme tokens dropped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
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

    Zhang et al. 2023, arXiv:2303.15754. The gradient of each attention map is multiplied by
    `attention`, and its rows and columns that hold the largest and the smallest entry of a head are set to 0. Gradients
    of queries, keys and values, and of the MLPs' outputs, are multiplied by `qkv` and `mlp`; for each channel, those of
    the tokens with the largest and the smallest gradient are set to 0. Extremes are found for each image.

    The paper regularizes the gradient of the map. The hooks of torchattack, which follow the authors' code, change the
    gradient of the scores, before the softmax: `variant: authors`. There, batches have one image, because extremes are
    those of the first one; with torch 2, tokens of all images are one sequence. In CaiT's class attention, whose map
    has one query, only keys are chosen here.
    """

    name: ClassVar[str] = "tgr"

    attention: Factor = 0.25
    qkv: Factor = 0.75
    mlp: Factor = 0.5
    variant: Literal["paper", "authors"] = "paper"

    @contextlib.contextmanager
    def applied(self, models: Mapping[str, nn.Module], draws: PassDraws) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for model in models.values():
                self._regularize(model, stack)
            yield

    def _regularize(self, model: nn.Module, stack: contextlib.ExitStack) -> None:
        import torch

        from study.models.features import changed_backward
        from study.models.token_gradients import (
            changed_scores,
            counted_rows,
            maps_scaled,
            one_row_an_image,
            tokens_scaled,
            transformer_of,
        )
        from study.models.visible_attention import visible_attention

        parts = transformer_of(model, "tgr")
        rows = stack.enter_context(counted_rows(model))
        none = torch.zeros(())

        def damp(name: str, factor: float, extremes: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
            return lambda gradient: extremes(
                factor * one_row_an_image(gradient, rows[0], name), none.to(gradient.device)
            )

        stack.enter_context(visible_attention(model))
        maps = {name: damp(name, self.attention, maps_scaled) for name in parts.maps}
        stack.enter_context(changed_backward(model, maps) if self.variant == "paper" else changed_scores(model, maps))
        tokens = {name: damp(name, self.qkv, tokens_scaled) for name in parts.qkv}
        tokens |= {name: damp(name, self.mlp, tokens_scaled) for name in parts.mlps}
        stack.enter_context(changed_backward(model, tokens))
