"""Pay no attention, PNA: no gradient passes through a transformer's attention maps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from study.attacks.kinds import BackwardChange, PassDraws
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import nn


@register
class PayNoAttention(BackwardChange):
    """Pay no attention, PNA: a transformer's attention maps are treated as constants in the backward pass.

    Wei et al. 2022, arXiv:2109.04176. In an attention layer, gradients reach only the values, and not the queries and
    keys. The authors' code, TransferAttack and torchattack do the same, with two exceptions. They do not change the
    first of the two class attentions of CaiT. Their hooks have no effect where timm uses fused attention. Here, the
    attention map is always computed.
    """

    name: ClassVar[str] = "pna"

    @contextlib.contextmanager
    def on(self, model: nn.Module, name: str, draws: PassDraws) -> Iterator[None]:
        import torch

        from study.models.features import changed_backward
        from study.models.token_gradients import transformer_of
        from study.models.visible_attention import visible_attention

        maps = transformer_of(model, "pna").maps
        with visible_attention(model), changed_backward(model, dict.fromkeys(maps, torch.zeros_like)):
            yield
