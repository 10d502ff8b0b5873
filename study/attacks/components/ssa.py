"""Spectrum simulation, SSA: copies whose frequencies are scaled at random."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
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
    deviation `sigma`, in pixel values. The mask is uniform over 1 - `rho` to 1 + `rho`, with one number for each
    frequency, channel and copy. The paper calls the number of copies N.

    The noise is drawn for frequencies, not for pixels. The result has the same distribution, because the transform is
    orthonormal. So the image is transformed only once for all copies.

    The gradient at the view is used as the gradient at the image. torchattack takes the gradient through the view
    instead. The paper's own attack and the authors' code have no momentum; TransferAttack adds a momentum.
    """

    name: ClassVar[str] = "ssa"
    version: ClassVar[int] = 2

    copies: Annotated[int, Field(ge=1, le=10_000)] = 20
    sigma: Annotated[float, Field(ge=0)] = 16.0
    rho: Annotated[float, Field(ge=0, le=1)] = 0.5

    def of_all_copies(self, image: Tensor) -> Tensor:
        down, across = (_cosines(size, image.device, image.dtype) for size in image.shape[2:])
        return down @ image @ across.mT

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        import torch

        assert given.common is not None, "it is the spectrum of the image"
        with torch.no_grad():
            noise, mask = given.draws.normal(image.shape[1:]), given.draws.uniform(image.shape[1:], "mask")
            spectrum = noise.to(image.dtype).mul_(self.sigma).add_(given.common)
            spectrum.addcmul_(spectrum, mask.to(image.dtype), value=self.rho)
            view = _inverse(spectrum)
        return at_view(image, view)


def _inverse(spectrum: Tensor) -> Tensor:
    """Return the images (N, C, H, W) with a given `spectrum`, in which the even frequencies come first.

    A wave of an even frequency is symmetric about the middle of a line, and a wave of an odd frequency is
    antisymmetric. So only the first half of each wave is multiplied, which halves the cost.
    """
    height, width = spectrum.shape[2:]
    even, odd = _halves(width, spectrum)
    first = even.shape[2]
    rows = _unfolded(spectrum[..., :first] @ even, spectrum[..., first:] @ odd, 3)
    even, odd = _halves(height, spectrum)
    first = even.shape[2]
    return _unfolded(even.mT @ rows[:, :, :first], odd.mT @ rows[:, :, first:], 2)


def _halves(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first halves of the waves with even and with odd frequencies.

    Their shapes are (1, 1, size - size // 2, size - size // 2) and (1, 1, size // 2, size // 2).
    """
    matrix, half = _cosines(size, like.device, like.dtype), size // 2
    return matrix[..., : size - half, : size - half], matrix[..., size - half :, :half]


def _unfolded(even: Tensor, odd: Tensor, dim: int) -> Tensor:
    """Return the sums of symmetric and antisymmetric lines along `dim`, from their first halves. `even` is overwritten.

    If a line has a middle, it belongs to `even` only.
    """
    import torch

    half = odd.shape[dim]
    first = even.narrow(dim, 0, half)
    begin = first + odd
    first.sub_(odd)
    return torch.cat([begin, even.flip(dim)], dim)


@kept
def _cosines(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the matrix (1, 1, size, size) of the cosine transform. Its rows are the even frequencies, then the odd."""
    matrix = cosine_transform(size)
    return uploaded(np.concatenate([matrix[::2], matrix[1::2]]), device, dtype)[None, None]
