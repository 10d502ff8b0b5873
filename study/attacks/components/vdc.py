"""Virtual dense connections, VDC: gradients of later blocks of a transformer reach all earlier ones directly."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from study.attacks.kinds import BackwardChange, PassDraws
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import nn

Factor = Annotated[float, Field(ge=0, le=10)]


@register
class VirtualDense(BackwardChange):
    """Virtual dense connections, VDC: in a plain transformer, gradients of later blocks are added to earlier ones.

    Zhang et al. 2024 (AAAI, doi 10.1609/aaai.v38i7.28541). In each block, the gradient of the attention map is
    multiplied by `attention`, and the gradient of the MLP branch's input by `mlp`. Then the gradients at the same
    places of all later blocks are added, as they are in the unchanged network. The gradient of a later block has the
    weight `added` times `decay`^b, where b is the number of blocks after it. The gradients of MLP branches' inputs also
    get `added` times `decay` times the class token's gradient after the last block. One gradient takes two backward
    passes.

    TransferAttack and torchattack are ports of the authors' code, and the numbers are theirs. Their hooks change the
    gradient of the scores before the softmax in place of the map's gradient; `variant: authors` does the same. The
    ports have other numbers for PiT (0.03 in place of 0.1) and for Visformer, where they begin again in each stage;
    here, a network with several resolutions raises StudyError.
    """

    name: ClassVar[str] = "vdc"

    attention: Factor = 0.25
    mlp: Factor = 0.5
    added: Factor = 0.1
    decay: Factor = 0.5
    variant: Literal["paper", "authors"] = "paper"

    @property
    def extra_gradients(self) -> int:
        return 1

    def on(self, model: nn.Module, name: str, draws: PassDraws) -> AbstractContextManager[None]:
        from study.models.virtual_dense import Weights, virtual_dense

        weights = Weights(self.attention, self.mlp, self.added, self.decay)
        return virtual_dense(model, weights, "map" if self.variant == "paper" else "scores")
