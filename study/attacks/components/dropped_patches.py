"""Dropped patches (DP): a view that keeps the perturbation on some patches of a grid, and drops it elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from study.attacks.kinds import View, ViewContext, at_view
from study.attacks.registry import register
from study.devices.copies import uploaded

if TYPE_CHECKING:
    from torch import Tensor


@register
class DroppedPatches(View):
    """Dropped patches (DP): the clean image with the perturbation on `kept` random patches of `grid` x `grid` patches.

    Source: Li et al., NeurIPS 2023 (TA-Bench), arXiv:2311.01323. The attack uses the gradient at the view as the
    gradient at the image, as the authors' code does. Dropped patches therefore get a gradient, too. If `grid` does not
    divide the size of the image, patches have two sizes. Each image draws its own patches.

    `variant: authors` draws the patches with replacement, as the authors' code does: 128 draws keep about 101 of 256
    patches.

    Other code: In the authors' code, a batch shares its patches. If the grid does not divide the image's size, the
    authors' code always drops the remaining rows and columns.
    """

    name: ClassVar[str] = "dropped-patches"

    kept: Annotated[int, Field(ge=1)] = 128
    grid: Annotated[int, Field(ge=1, le=512)] = 16
    variant: Literal["paper", "authors"] = "paper"

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        import torch

        patches = self.grid**2
        if self.variant == "paper":
            chosen = np.argsort(given.draws.integers(patches), axis=1, kind="stable")[:, : self.kept]
        else:
            chosen = (given.draws.integers(self.kept) % np.uint64(patches)).astype(np.int64)
        kept = np.zeros((len(image), patches), dtype=bool)
        np.put_along_axis(kept, chosen, True, axis=1)
        row, column = (np.arange(size) * self.grid // size for size in image.shape[2:])
        mask = uploaded(kept.reshape(-1, 1, self.grid, self.grid)[:, :, row][..., column], image.device)
        return at_view(image, torch.where(mask, image, given.origin))
