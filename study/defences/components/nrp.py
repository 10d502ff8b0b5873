"""NRP: a defence with a network that purifies images.

The network was trained against perturbations of a classifier's features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from study.attacks.registry import register
from study.defences.kinds import DefenceContext, Purifier, WeightsFile

if TYPE_CHECKING:
    from torch import Tensor, nn

_NOISE, _WITHIN = 12.75, 16.0


@register
class NRP(Purifier):
    """Neural representation purifier, NRP (Naseer et al. 2020, arXiv:2006.04924), with the authors' `weights`.

    `architecture` is `dense` for the authors' file NRP.pth (residual-in-residual dense blocks), or `residual` for
    NRP_resG.pth (residual blocks). `blocks` is the number of blocks. With `dynamic: true`, Gaussian noise is first
    added to the image, as the authors do against an attacker who knows the purifier. The noise has a standard deviation
    of 12.75 pixel values, is clipped to -16..16, and depends on the image's id.
    """

    name: ClassVar[str] = "nrp"
    main: ClassVar[str | None] = "weights"
    channels: ClassVar[int | None] = 3

    weights: WeightsFile
    architecture: Literal["dense", "residual"] = "dense"
    blocks: Annotated[int, Field(ge=1, le=64)] = 23
    dynamic: bool = False

    def network(self) -> nn.Module:
        from study.defences.nrp_networks import DensePurifier, ResidualPurifier

        return (DensePurifier if self.architecture == "dense" else ResidualPurifier)(self.blocks)

    def purified(self, images: Tensor, given: DefenceContext) -> Tensor:
        assert given.network is not None, "this defence has a network"
        if self.dynamic:
            noise = _NOISE * given.draws().normal(images.shape[1:])
            images = (images + noise.clamp(-_WITHIN, _WITHIN)).clamp(0, 255)
        made: Tensor = given.network(images / 255) * 255
        return made
