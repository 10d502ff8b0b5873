"""PatchOut: in each step, the perturbation is applied to only a random part of the image's patches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from study.attacks.kinds import View, ViewContext
from study.attacks.registry import register
from study.devices.copies import uploaded

if TYPE_CHECKING:
    from torch import Tensor


@register
class PatchOut(View):
    """PatchOut: the perturbation is kept on a random share of the image's patches, and removed from the other patches.

    Wei et al. 2022, arXiv:2109.04176. `patch` is the side of a patch in pixels. `share` is the fraction of patches on
    which the perturbation is kept. The default is that of the authors: 130 of 196 patches. The patches are drawn anew
    for each image and step. Patches at the right and lower border are cut if the image's size is not a multiple of
    `patch`. The authors use the number of the step as the seed, so all images have the same patches. TransferAttack and
    torchattack do the same.
    """

    name: ClassVar[str] = "patchout"

    patch: Annotated[int, Field(ge=1, le=1024)] = 16
    share: Annotated[float, Field(gt=0, le=1)] = 130 / 196

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        height, width = image.shape[-2:]
        down, right = math.ceil(height / self.patch), math.ceil(width / self.patch)
        order = np.argsort(given.draws.integers(down * right), axis=1)
        kept = np.zeros((len(image), down * right), dtype=np.float32)
        np.put_along_axis(kept, order[:, : max(1, round(self.share * down * right))], 1, axis=1)
        mask = uploaded(kept, image.device, image.dtype).view(-1, 1, down, right)
        mask = mask.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)[..., :height, :width]
        return given.origin + mask * (image - given.origin)
