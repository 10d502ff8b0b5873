"""Radii of budgets, and distances between clean and adversarial images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.attacks.budget_spec import Budget
from study.attacks.kinds import BudgetRule

Pixels = NDArray[np.uint8]


def radii(
    budget: Budget, rule: BudgetRule, matched: NDArray[np.float64] | None, count: int, values: int
) -> NDArray[np.float64] | None:
    """Return the radius of each of `count` images (count,), in the unit of the budget's rule.

    Each image has `values` pixel values. Return None if the budget has several lengths or no length, or if its rule has
    no radius. `matched` (count,) are the radii of a matched budget. Raises ValueError if the budget is matched and
    `matched` is None.
    """
    if budget.matched:
        if matched is None:
            raise ValueError("a matched budget needs the RMSD of every image")
        return matched
    if len(budget.levels) > 1 or budget.levels[0] is None:
        return None
    radius = rule.radius(budget.levels[0], values)
    return None if radius is None else np.full(count, radius)


def distances(clean: Pixels, adversarial: Pixels) -> tuple[float, float, float]:
    """Return RMSD, L-infinity and L2 between two `uint8` images, in pixel values."""
    rmsd, linf, l2 = all_distances(clean[None], adversarial[None])[0].tolist()
    return rmsd, linf, l2


def all_distances(clean: Pixels, adversarial: Pixels) -> NDArray[np.float64]:
    """Return RMSD, L-infinity and L2 between `uint8` images (N, C, H, W), in pixel values, float64 (N, 3)."""
    flat = (adversarial.astype(np.int32) - clean).reshape(len(clean), -1)
    return of_integers(np.square(flat).sum(1, dtype=np.int64), np.abs(flat).max(1), flat.shape[1])


def integer_distances(clean: Tensor, adversarial: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of squares and the largest difference of each pair of `uint8` images (N, C, H, W).

    Both results are int64 (N,), on the device of the images, and exact on every device.
    """
    flat = (adversarial.to(torch.int32) - clean.to(torch.int32)).flatten(1)
    return flat.square().sum(1, dtype=torch.int64), flat.abs().amax(1).to(torch.int64)


def of_integers(
    squares: NDArray[np.int64], largest: NDArray[np.signedinteger[Any]], numbers: int
) -> NDArray[np.float64]:
    """Return RMSD, L-infinity and L2, float64 (N, 3), from the results of `integer_distances` for N images.

    `numbers` is the number of pixel values of an image.
    """
    return np.stack([np.sqrt(squares / numbers), largest, np.sqrt(squares)], axis=1)
