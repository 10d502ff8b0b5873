"""How far an image may move, and how a finished float perturbation becomes 8-bit pixels without leaving its budget."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.attacks.recipe import Budget

Pixels = NDArray[np.uint8]

_BISECTIONS = 60


def project(delta: Tensor, clean: Tensor, budget: Budget, rmsd: Tensor | None) -> Tensor:
    """The perturbation (N, C, H, W) moved back into its budget and then into the pixel box 0..255.

    `rmsd` (N,) holds each image's radius where the budget is an RMSD, fixed or matched.
    """
    if budget.epsilon is not None:
        delta = delta.clamp(-budget.epsilon, budget.epsilon)
    if rmsd is not None:
        length = delta.square().mean((1, 2, 3)).sqrt()
        shrink = torch.where(length > rmsd, rmsd / length, 1)
        delta = delta * shrink[:, None, None, None]
    return torch.clamp(delta, -clean, 255 - clean)


def finish(
    clean: Pixels, delta: NDArray[np.float32], budget: Budget, rmsd: float | None, ties: NDArray[np.uint64]
) -> Pixels:
    """One adversarial image, `uint8` (C, H, W): what is scored is what could be saved.

    - no budget: rounded to the nearest pixel value, inside the box;
    - epsilon: the same, but never past epsilon;
    - RMSD: the perturbation is scaled along its ray until the image, clipped and rounded, has that RMSD
      (Liu et al. 2017, section 3.2.1). Where the box leaves no room for it, the image goes as far as it can.

    `ties` (C*H*W,) decides which of equally placed pixels are rounded up.
    """
    if rmsd is not None:
        return _exact_rmsd(clean, delta, rmsd, ties)
    move = np.rint(delta)
    if budget.epsilon is not None:
        whole = math.floor(budget.epsilon)
        move = move.clip(-whole, whole)
    return (clean + move).clip(0, 255).astype(np.uint8)


def _exact_rmsd(clean: Pixels, delta: NDArray[np.float32], rmsd: float, ties: NDArray[np.uint64]) -> Pixels:
    """Scale, clip and round so that sum (x' - x)^2 = N rmsd^2, to within one pixel's rounding.

    Nearest rounding would move FGS, whose pixels all have one magnitude, in whole grey levels. So every magnitude
    is rounded down, and then just so many are rounded up that the sum is met: the largest fractions first, which is
    nearest rounding with a shifted threshold, and among equal fractions a keyed random share.
    """
    sign = np.sign(delta).astype(np.int16).ravel()
    length = np.abs(delta.ravel().astype(np.float64))
    pixels = clean.ravel()
    room = np.where(sign > 0, 255 - pixels, pixels).astype(np.float64)
    room[sign == 0] = 0
    wanted = rmsd**2 * room.size

    def moved(scale: float) -> NDArray[np.float64]:
        moves: NDArray[np.float64] = np.minimum(scale * length, room)
        return moves

    if np.square(room).sum() <= wanted:
        exact = room
    else:
        low, high = 0.0, 1.0 / length.max()
        while np.square(moved(high)).sum() < wanted:
            low, high = high, 2 * high
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            if middle in (low, high):
                break
            if np.square(moved(middle)).sum() < wanted:
                low = middle
            else:
                high = middle
        exact = moved(high)

    down = np.floor(exact)
    fraction = exact - down
    fractional = np.flatnonzero(fraction)
    order = fractional[np.lexsort((ties[fractional], -fraction[fractional]))]
    growth = np.cumsum(2 * down[order] + 1)
    missing = wanted - np.square(down).sum()
    ups = int(np.searchsorted(growth, missing))
    if ups < growth.size and growth[ups] - missing < missing - (growth[ups - 1] if ups else 0):
        ups += 1
    down[order[:ups]] += 1
    return (pixels + sign * down.astype(np.int16)).astype(np.uint8).reshape(clean.shape)


def distances(clean: Pixels, adversarial: Pixels) -> tuple[float, float, float]:
    """RMSD, L-infinity and L2 between two `uint8` images, in pixel values."""
    difference = adversarial.astype(np.int64) - clean.astype(np.int64)
    total = int(np.square(difference).sum())
    return math.sqrt(total / difference.size), float(np.abs(difference).max()), math.sqrt(total)
