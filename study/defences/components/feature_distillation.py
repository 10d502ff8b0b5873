"""Feature distillation: a defence that compresses blocks of 8 x 8 pixels, as JPEG does.

Its quantization table was designed to remove adversarial perturbations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from study.attacks.registry import register
from study.attacks.resampling import cosine_transform
from study.defences.kinds import DefenceContext, Purifier
from study.devices.copies import uploaded
from study.devices.tables import kept

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_BLOCK = 8
_UNIT = 2**17
Quantum = Annotated[int, Field(ge=1, le=255)]


@register
class FeatureDistillation(Purifier):
    """Feature distillation (Liu et al. 2019, arXiv:1803.05787): the cosine transform of 8 x 8 blocks is rounded.

    In each block and channel, the coefficients of the 4 x 4 lowest frequencies are rounded to multiples of `low`. All
    other coefficients are rounded to multiples of `high`. The authors' code has `low` 25 and `high` 30, in pixel
    values. If a side of the image is not a multiple of 8, the image is padded with its border pixels.

    The entries of the transform's matrix are multiples of 2^-17, so every sum is exact in float64. Therefore the result
    does not depend on the batch, the library or the machine.
    """

    name: ClassVar[str] = "feature-distillation"

    low: Quantum = 25
    high: Quantum = 30

    def purified(self, images: Tensor, given: DefenceContext) -> Tensor:
        from torch.nn import functional

        height, width = images.shape[2:]
        padded = functional.pad(images.double(), (0, -width % _BLOCK, 0, -height % _BLOCK), mode="replicate")
        count, channels, tall, wide = padded.shape
        blocks = padded.view(count, channels, tall // _BLOCK, _BLOCK, wide // _BLOCK, _BLOCK).transpose(3, 4)
        cosines, table = _cosines(images.device), _table(self.low, self.high, images.device)
        spectrum = cosines @ blocks @ cosines.mT
        rounded = (spectrum / table).round_() * table
        made = (cosines.mT @ rounded @ cosines).transpose(3, 4).reshape(count, channels, tall, wide)
        return made[:, :, :height, :width].to(images.dtype)


@kept
def _cosines(device: torch.device) -> Tensor:
    """Return the matrix of the cosine transform of 8 numbers, float64 (8, 8), rounded to multiples of 2^-17."""
    return uploaded(np.rint(np.asarray(cosine_transform(_BLOCK)) * _UNIT) / _UNIT, device)


@kept
def _table(low: int, high: int, device: torch.device) -> Tensor:
    """Return the rounding step of each frequency of a block, float64 (8, 8)."""
    table = np.full((_BLOCK, _BLOCK), float(high))
    table[: _BLOCK // 2, : _BLOCK // 2] = low
    return uploaded(table, device)
