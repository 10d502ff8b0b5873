"""Radii of budgets, the projection onto them, and distances between images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.attacks.recipe import Budget

Pixels = NDArray[np.uint8]


def radii(budget: Budget, matched: NDArray[np.float64] | None, count: int, numbers: int) -> NDArray[np.float64] | None:
    """Return the RMSD (count,) of each image for a matched budget, or for a single L2 norm or RMSD; else None.

    `numbers` is the number of values of an image.
    """
    if budget.matched:
        if matched is None:
            raise ValueError("a matched budget needs the RMSD of every image")
        return matched
    if len(budget.levels) > 1 or budget.levels[0] is None or budget.epsilon is not None:
        return None
    return np.full(count, rmsd_of(budget, budget.levels[0], numbers))


def rmsd_of(budget: Budget, level: float, numbers: int) -> float:
    """Return the RMSD that corresponds to `level`, an L2 norm or an RMSD, for images of `numbers` values."""
    return level / math.sqrt(numbers) if budget.l2 is not None else level


class Projection:
    """Projects perturbations (N, C, H, W) of `clean` onto the budget, and then onto the pixel box 0..255.

    `rmsd` (N,) holds each image's radius if the budget is an L2 norm or an RMSD, fixed or matched.
    """

    def __init__(self, clean: Tensor, budget: Budget, rmsd: Tensor | None) -> None:
        self._rmsd = rmsd
        self._low, self._high = -clean, 255 - clean
        if budget.epsilon is not None and len(budget.levels) == 1:
            (epsilon,) = budget.levels
            assert epsilon is not None, "an epsilon budget has an epsilon"
            # One clamp does both projections, because the pixel box contains the zero perturbation.
            self._low, self._high = self._low.clamp(min=-epsilon), self._high.clamp(max=epsilon)

    def __call__(self, delta: Tensor) -> Tensor:
        """Return the projected perturbation. Leave `delta` unchanged."""
        if self._rmsd is not None:
            length = delta.square().mean((1, 2, 3)).sqrt()
            shrink = torch.where(length > self._rmsd, self._rmsd / length, 1)
            delta = delta * shrink[:, None, None, None]
        return torch.clamp(delta, self._low, self._high)


def distances(clean: Pixels, adversarial: Pixels) -> tuple[float, float, float]:
    """Return RMSD, L-infinity and L2 between two `uint8` images, in pixel values."""
    rmsd, linf, l2 = all_distances(clean[None], adversarial[None])[0].tolist()
    return rmsd, linf, l2


def all_distances(clean: Pixels, adversarial: Pixels) -> NDArray[np.float64]:
    """Return RMSD, L-infinity and L2 between `uint8` images (N, C, H, W), in pixel values, float64 (N, 3)."""
    flat = (adversarial.astype(np.int32) - clean).reshape(len(clean), -1)
    return of_integers(np.square(flat).sum(1, dtype=np.int64), np.abs(flat).max(1), flat.shape[1])


def integer_distances(clean: Tensor, adversarial: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of squares and the largest difference (N,) of `uint8` images (N, C, H, W), int64, on their device.

    They are exact on every device.
    """
    flat = (adversarial.to(torch.int32) - clean.to(torch.int32)).flatten(1)
    return flat.square().sum(1, dtype=torch.int64), flat.abs().amax(1).to(torch.int64)


def of_integers(
    squares: NDArray[np.int64], largest: NDArray[np.signedinteger[Any]], numbers: int
) -> NDArray[np.float64]:
    """Return RMSD, L-infinity and L2, float64 (N, 3), of images with `numbers` values."""
    return np.stack([np.sqrt(squares / numbers), largest, np.sqrt(squares)], axis=1)
