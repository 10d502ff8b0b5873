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

    Zhang et al. 2024 (AAAI, doi 10.1609/aaai.v38i7.28541). The gradient of each attention map is multiplied by
    `attention`, that of each MLP branch's input by `mlp`. The gradients that all later blocks have at the same place in
    the unchanged network are added, each multiplied by `added`, and by `decay` once for each block between it and the
    end. MLPs also get `added` times `decay` times the class token's gradient after the last block. One gradient takes
    two backward passes.

    The hooks of TransferAttack and torchattack, ports of the authors' code, change the scores before the softmax in
    place of the map: `variant: authors`. They have other numbers for PiT (0.03 in place of 0.1) and Visformer, where
    they begin again in each stage; here networks with several resolutions are refused. Numbers are those of the ports.
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
