"""HGD: a defence whose U-Net removes the perturbation. The U-Net was trained with a loss on a classifier's features."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.registry import register
from study.defences.kinds import DefenceContext, Purifier, WeightsFile

if TYPE_CHECKING:
    from torch import Tensor, nn

_WITHIN = re.compile(r"(?:^|.*\.)denoise\.(?:0\.)?((?:fwd|back|final)\b.*)")
_Channels = Annotated[tuple[float, float, float], Field(strict=False)]


@register
class HGD(Purifier):
    """High-level representation guided denoiser, HGD (Liao et al. 2018, arXiv:1712.02976), with the authors' `weights`.

    The authors' files also contain a classifier. Only the tensors of the denoiser are used, whose names contain
    `denoise.`. The denoiser gets (x / 255 - mean) / std for an image x in pixel values. The default `mean` and `std`
    are those of the authors' Inception networks. For the authors' ResNet and ResNeXt, write
    `mean: [0.485, 0.456, 0.406]` and `std: [0.229, 0.224, 0.225]`.
    """

    name: ClassVar[str] = "hgd"
    main: ClassVar[str | None] = "weights"
    channels: ClassVar[int | None] = 3

    weights: WeightsFile
    mean: _Channels = (0.5, 0.5, 0.5)
    std: _Channels = (0.5, 0.5, 0.5)

    def network(self) -> nn.Module:
        from study.defences.hgd_network import Denoiser

        return Denoiser()

    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {match[1]: value for name, value in state.items() if (match := _WITHIN.match(name))}
        return found or dict(state)

    def purified(self, images: Tensor, given: DefenceContext) -> Tensor:
        assert given.network is not None, "this defence has a network"
        mean, std = (images.new_tensor(one).view(1, -1, 1, 1) for one in (self.mean, self.std))
        made: Tensor = given.network((images / 255 - mean) / std)
        return (made * std + mean) * 255
