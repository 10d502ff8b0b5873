"""How far an image may move: projection between steps, and the way a finished perturbation becomes 8-bit pixels."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.attacks.recipe import Budget
from study.attacks.rounding import Ray

Pixels = NDArray[np.uint8]


def radii(budget: Budget, matched: NDArray[np.float64] | None, count: int, numbers: int) -> NDArray[np.float64] | None:
    """The RMSD (count,) that a single L2 or RMSD budget gives every image of `numbers` numbers; None without one."""
    if budget.matched:
        if matched is None:
            raise ValueError("a matched budget needs the RMSD of every image")
        return matched
    if len(budget.levels) > 1 or budget.levels[0] is None or budget.epsilon is not None:
        return None
    return np.full(count, rmsd_of(budget, budget.levels[0], numbers))


def rmsd_of(budget: Budget, level: float, numbers: int) -> float:
    """The RMSD of a perturbation of `numbers` numbers whose budget, an L2 norm or an RMSD, is `level`."""
    return level / math.sqrt(numbers) if budget.l2 is not None else level


class Projection:
    """Moves perturbations (N, C, H, W) of `clean` back into their budget and then into the pixel box 0..255.

    `rmsd` (N,) holds each image's radius where the budget is an L2 norm or an RMSD, fixed or matched.
    """

    def __init__(self, clean: Tensor, budget: Budget, rmsd: Tensor | None) -> None:
        self._rmsd = rmsd
        self._low, self._high = -clean, 255 - clean
        if budget.epsilon is not None and len(budget.levels) == 1:
            (epsilon,) = budget.levels
            assert epsilon is not None, "an epsilon budget has an epsilon"
            # The box holds 0, so that the two clamps are one.
            self._low, self._high = self._low.clamp(min=-epsilon), self._high.clamp(max=epsilon)

    def __call__(self, delta: Tensor) -> Tensor:
        """The perturbation, projected; `delta` itself is left as it is."""
        if self._rmsd is not None:
            length = delta.square().mean((1, 2, 3)).sqrt()
            shrink = torch.where(length > self._rmsd, self._rmsd / length, 1)
            delta = delta * shrink[:, None, None, None]
        return torch.clamp(delta, self._low, self._high)


def finish(
    clean: Pixels,
    delta: NDArray[np.float32],
    budget: Budget,
    *,
    level: float | None = None,
    rmsd: float | None = None,
    ray: Ray | None = None,
) -> Pixels:
    """One adversarial image, `uint8` (C, H, W): what is scored is what could be saved.

    - no budget: rounded to the nearest pixel value, inside the box;
    - epsilon (`level`): the same, but never past epsilon;
    - RMSD (`rmsd`): the perturbation is scaled along its `ray` until the image, clipped and rounded, has that RMSD
      (Liu et al. 2017, section 3.2.1). Where the box leaves no room for it, the image goes as far as it can;
    - L2: rounded to the nearest where that is within the norm, else as an RMSD, but never past it.
    """
    if rmsd is not None:
        assert ray is not None, "a radius has a ray"
        if budget.l2 is None:
            return ray.at(rmsd)
        nearest = _nearest(clean, delta)
        return nearest if distances(clean, nearest)[0] <= rmsd else ray.at(rmsd, beyond=False)
    if budget.epsilon is not None:
        assert level is not None, "an epsilon budget has a level"
        whole = math.floor(level)
        return _nearest(clean, delta, whole)
    return _nearest(clean, delta)


def _nearest(clean: Pixels, delta: NDArray[np.float32], most: int = 255) -> Pixels:
    """Rounded to the nearest whole move, at most `most`, inside the pixel box."""
    rounded: Pixels = (clean + np.rint(delta).clip(-most, most)).clip(0, 255).astype(np.uint8)
    return rounded


def distances(clean: Pixels, adversarial: Pixels) -> tuple[float, float, float]:
    """RMSD, L-infinity and L2 between two `uint8` images, in pixel values."""
    difference = adversarial.astype(np.int64) - clean.astype(np.int64)
    total = int(np.square(difference).sum())
    return math.sqrt(total / difference.size), float(np.abs(difference).max()), math.sqrt(total)
