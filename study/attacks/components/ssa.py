"""Spectrum simulation, SSA: copies whose frequencies are scaled at random."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.kinds import View, ViewContext, at_view
from study.attacks.registry import register
from study.attacks.resampling import cosine_transform
from study.devices.copies import uploaded
from study.devices.tables import kept

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@register
class SpectrumSimulation(View):
    """Spectrum simulation, SSA: gradients at the views IDCT(DCT(image + noise) * mask), with random noise and masks.

    Long et al. 2022, arXiv:2207.05382, equation 6 and algorithm 1. TransferAttack calls the attack SSM. DCT is the
    discrete cosine transform of the image, and IDCT is the inverse transform. The noise is normal with the standard
    deviation `sigma`, in pixel values. The mask is uniform over 1 - `rho` to 1 + `rho`, with one number for each pixel,
    channel and copy. The paper calls the number of copies N.

    The gradient at the view is used as the gradient at the image. torchattack takes the gradient through the view
    instead. The paper's own attack and the authors' code have no momentum; TransferAttack adds a momentum.
    """

    name: ClassVar[str] = "ssa"

    copies: Annotated[int, Field(ge=1, le=10_000)] = 20
    sigma: Annotated[float, Field(ge=0)] = 16.0
    rho: Annotated[float, Field(ge=0, le=1)] = 0.5

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        import torch

        with torch.no_grad():
            noisy = image + self.sigma * given.draws.normal(image.shape[1:])
            mask = 1 + self.rho * given.draws.uniform(image.shape[1:], "mask")
            down, across = (_cosines(size, image.device, image.dtype) for size in image.shape[2:])
            spectrum = down @ noisy @ across.mT
            view = down.mT @ (spectrum * mask) @ across
        return at_view(image, view)


@kept
def _cosines(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the matrix (1, 1, size, size) of the cosine transform."""
    return uploaded(cosine_transform(size), device, dtype)[None, None]
