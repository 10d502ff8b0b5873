"""Virtual dense connections, VDC: gradients of later blocks of a transformer reach all earlier blocks directly."""

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
    """Virtual dense connections, VDC: in a plain transformer, earlier blocks also get the gradients of later blocks.

    Zhang et al. 2024 (AAAI, doi 10.1609/aaai.v38i7.28541). Two gradients change in each block. The gradient of the
    attention map is multiplied by `attention`. The gradient of the MLP branch's input is multiplied by `mlp`. Then the
    gradients at the same place in all later blocks are added, with their values in the unchanged network. The gradient
    of a later block has the weight `added` times `decay`^b, where b is the number of blocks after this later block. The
    class token of an MLP branch's input also gets `added` times `decay` times the class token's gradient after the last
    block. One gradient of the changed network takes two backward passes.

    TransferAttack and torchattack are ports of the authors' code, and the default numbers are those of these ports. The
    ports change the gradient of the scores before the softmax, in place of the gradient of the map. `variant: authors`
    does the same. For PiT and Visformer, the ports have other numbers (0.03 in place of 0.1 for PiT), and their sums
    begin again in each stage. Here, a network with several resolutions raises StudyError.
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
