"""8-bit images along rays, as in `PerturbationRay`, but for a whole batch, on the device of the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from study.reproducibility.words import order as word_order

_INFINITE = float("inf")


class Rays:
    """For each of N images: the ray of images clean + scale * direction, clipped to 0..255 and rounded.

    `PerturbationRay` does the same for one image on the host, and describes the rounding. The sums of squares before
    rounding may differ from those of `PerturbationRay` in their last bits, because each device has its own order of
    summation.
    """

    def __init__(self, clean: Tensor, direction: Tensor, ties: Tensor) -> None:
        """Prepare the rays from `clean`, `uint8`, in the directions `direction`; both are (N, C, H, W).

        `ties`, int64 (N, C * H * W), have the bits of unsigned integers, which order pixels with equal fractions.
        """
        self._clean = clean
        before, flat = clean.flatten(1).to(torch.float64), direction.flatten(1).to(torch.float64)
        self._sign, self._length = flat.sign(), flat.abs()
        limit = torch.where(self._sign > 0, 255 - before, before)
        self._limit = torch.where(self._sign == 0, 0, limit)
        clipped = torch.where(self._length > 0, self._limit / self._length, _INFINITE)
        self._clipped, order = clipped.sort(dim=1, stable=True)
        none = self._limit.new_zeros(len(clean), 1)
        inside, outside = self._length.gather(1, order).square(), self._limit.gather(1, order).square()
        self._below = torch.cat([none, outside.cumsum(1)], 1)
        self._above = torch.cat([inside.flip(1).cumsum(1).flip(1), none], 1)
        self._order = word_order(ties)

    def at(self, rmsd: Tensor, *, beyond: bool = True) -> Tensor:
        """Return the images, `uint8` (N, C, H, W), with these RMSDs, float64 (N,).

        If N is 1, `rmsd` may be (V,), and V images are returned. `beyond` means the same as in `PerturbationRay.at`.
        """
        wanted = rmsd.square()[:, None] * self._limit.shape[1]
        exact = self._exact(wanted)
        down = exact.floor()
        missing = wanted - down.square().sum(1, keepdim=True)
        down += self._rounded_up(exact - down, down, missing, beyond)
        moved = self._clean.flatten(1) + self._sign * down
        return moved.to(torch.uint8).view(-1, *self._clean.shape[1:])

    def _exact(self, wanted: Tensor) -> Tensor:
        """Return the magnitudes (N, C * H * W) of the changes before rounding. Their sum of squares is `wanted` (N, 1).

        If the pixel box allows no such sum, return the largest possible magnitudes.
        """
        # `_clipped` has the scale from which a pixel is clipped. It is infinite for a pixel that never moves.
        scales = self._clipped.where(self._clipped.isfinite(), 0)
        sums = (self._below[:, 1:] + scales.square() * self._above[:, 1:]).where(self._clipped.isfinite(), _INFINITE)
        sums, wanted = (one.expand(max(len(sums), len(wanted)), -1).contiguous() for one in (sums, wanted))
        index = torch.searchsorted(sums, wanted)
        below, above = (one.expand(len(index), -1).gather(1, index) for one in (self._below, self._above))
        scale = torch.where(above > 0, ((wanted - below).clamp(min=0) / above).sqrt(), _INFINITE)
        farthest = (self._below[:, -1:] <= wanted) | ~scale.isfinite()
        return torch.where(farthest, self._limit, torch.minimum(scale.where(~farthest, 0) * self._length, self._limit))

    def _rounded_up(self, fraction: Tensor, down: Tensor, missing: Tensor, beyond: bool) -> Tensor:
        """Return 1 for each pixel to round up, and 0 for each other pixel.

        Pixels with the largest fractions are rounded up, until the sum of squares has grown by `missing`.
        """
        by_ties = self._order.expand(len(fraction), -1)
        order = by_ties.gather(1, (-fraction.gather(1, by_ties)).argsort(dim=1, stable=True))
        growth = torch.where(fraction > 0, 2 * down + 1, _INFINITE).gather(1, order)
        grown = growth.cumsum(1)
        count = torch.searchsorted(grown, missing.contiguous(), right=True)
        if beyond:
            none = grown.new_zeros(len(grown), 1)
            last = torch.cat([none, grown], 1).gather(1, count)
            following = torch.cat([grown, none + _INFINITE], 1).gather(1, count)
            count = count + (following - missing < missing - last)
        up = (torch.arange(grown.shape[1], device=grown.device) < count).to(down.dtype)
        return torch.zeros_like(down).scatter_(1, order, up)
