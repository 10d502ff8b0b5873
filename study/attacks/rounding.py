"""8-bit images along a ray from a clean image. Each image has a given RMSD after clipping and rounding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BINS = 4096


class PerturbationRay:
    """The ray of all images clean + scale * direction, clipped to 0..255 and rounded. It gives images with any RMSD.

    All pixels of an FGS (fast gradient sign) step have one magnitude. Rounding to the nearest value would move all of
    them by the same whole number, and would miss the RMSD. Instead every magnitude is rounded down. Then pixels are
    rounded up until the sum of squares is reached: largest fractions first, with a keyed random choice among equal
    fractions.
    """

    def __init__(self, clean: NDArray[np.uint8], direction: NDArray[np.float32], ties: NDArray[np.uint64]) -> None:
        """Prepare the ray from `clean` in `direction`, both (C, H, W).

        Among pixels with equal fractions, `ties` (C * H * W,) gives the order in which they are rounded up.
        """
        self._clean = clean
        self._ties = ties
        flat = direction.ravel()
        self._sign = np.sign(flat).astype(np.int16)
        self._length = np.abs(flat).astype(np.float64)
        self._limit = np.where(self._sign > 0, 255 - clean.ravel(), clean.ravel()).astype(np.float64)
        self._limit[self._sign == 0] = 0
        # The pixel box clips a pixel at scales above limit / length. Between two neighbouring scales of this kind, the
        # sum of squares has a closed form.
        with np.errstate(divide="ignore", invalid="ignore"):
            clipped = np.where(self._length > 0, self._limit / self._length, np.inf)
        order = np.argsort(clipped, kind="stable")
        self._clipped = clipped[order]
        self._below = np.concatenate([[0.0], np.cumsum(np.square(self._limit[order]))])
        self._above = np.concatenate([np.cumsum(np.square(self._length[order])[::-1])[::-1], [0.0]])

    def at(self, rmsd: float, *, beyond: bool = True) -> NDArray[np.uint8]:
        """Return the image, `uint8` (C, H, W), with this RMSD up to the rounding of one pixel.

        If no image on the ray has so large an RMSD, return the last image of the ray. With `beyond=False`, the RMSD
        never exceeds `rmsd`.
        """
        wanted = rmsd**2 * self._limit.size
        exact = self._exact(wanted)
        down = np.floor(exact)
        up = self._rounded_up(exact - down, down, wanted - np.square(down).sum(), beyond)
        down[up] += 1
        moved: NDArray[np.uint8] = (self._clean.ravel() + self._sign * down.astype(np.int16)).astype(np.uint8)
        return moved.reshape(self._clean.shape)

    def _exact(self, wanted: float) -> NDArray[np.float64]:
        """Return the magnitudes (C * H * W,) of the changes before rounding. Their sum of squares is `wanted`.

        If the pixel box allows no such sum, return the largest possible magnitudes.
        """
        if self._below[-1] <= wanted:
            return self._limit.copy()
        # The sums of squares rise with the scales at which clipping begins: find the first sum that reaches `wanted`.
        finite = np.isfinite(self._clipped)
        scales = self._clipped[finite]
        sums = self._below[1 : len(scales) + 1] + scales**2 * self._above[1 : len(scales) + 1]
        index = int(np.searchsorted(sums, wanted))
        left = max(0.0, wanted - self._below[index])
        scale = np.sqrt(left / self._above[index]) if self._above[index] > 0 else np.inf
        if not np.isfinite(scale):
            return self._limit.copy()
        moved: NDArray[np.float64] = np.minimum(scale * self._length, self._limit)
        return moved

    def _rounded_up(
        self, fraction: NDArray[np.float64], down: NDArray[np.float64], missing: float, beyond: bool
    ) -> NDArray[np.intp]:
        """Return the indices of the pixels to round up.

        These are the pixels with the largest fractions, until the sum of squares has grown by `missing`.
        """
        growth = 2 * down + 1
        bins = (fraction * _BINS).astype(np.int64)
        bins[fraction == 0] = -1
        some = bins >= 0
        per_bin = np.bincount(bins[some], weights=growth[some], minlength=_BINS)[::-1]
        before = np.cumsum(per_bin)
        last = int(np.searchsorted(before, missing))
        whole = np.flatnonzero(bins > _BINS - 1 - last)
        if last >= _BINS:
            return whole
        missing -= before[last - 1] if last else 0.0
        within = np.flatnonzero(bins == _BINS - 1 - last)
        within = within[np.lexsort((self._ties[within], -fraction[within]))]
        grown = np.cumsum(growth[within])
        count = int(np.searchsorted(grown, missing, side="right"))
        if beyond and count < len(grown) and grown[count] - missing < missing - (grown[count - 1] if count else 0.0):
            count += 1
        return np.concatenate([whole, within[:count]])
