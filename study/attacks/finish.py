"""Rounding of float perturbations to 8-bit images within the budget: targets see images that a file can hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.attacks import budget as budgets
from study.attacks.budget import Pixels
from study.attacks.recipe import Attack
from study.attacks.rounding import PerturbationRay
from study.reproducibility.rng import draws


def finish(
    clean: Pixels,
    deltas: Sequence[Tensor],
    attack: Attack,
    radii: NDArray[np.float64] | None,
    keys: Sequence[Sequence[object]],
) -> list[Pixels]:
    """Return the images of every point of an attack, `uint8` (N, C, H, W), from its perturbations, float (N, C, H, W).

    - no budget: rounded to the nearest pixel value, inside the pixel box;
    - epsilon: the same, but never beyond epsilon;
    - RMSD: the perturbation is scaled until the image, clipped and rounded, has this RMSD (Liu et al. 2017, section
      3.2.1). If the pixel box prevents it, the image has the largest RMSD that the box allows;
    - L2: rounded to the nearest pixel value if the result is within the norm; else like an RMSD, but never beyond it.

    `radii` (N,) are the RMSDs of L2 and RMSD budgets; `keys`, one for each image, key the random numbers of rounding.
    """
    budget = attack.budget
    if budget.kind in ("none", "epsilon"):
        before = torch.from_numpy(clean).to(deltas[0].device)
        levels = [level for _, level in attack.scored_points]
        return [
            nearest(before, delta, 255 if level is None else math.floor(level)).cpu().numpy()
            for delta, level in zip(deltas, levels, strict=True)
        ]
    moves = [delta.to("cpu", memory_format=torch.contiguous_format).numpy() for delta in deltas]
    images = []
    for row, key in enumerate(keys):
        radius = None if radii is None else float(radii[row])
        images.append(_along_rays(clean[row], [move[row] for move in moves], attack, radius, key))
    return [np.stack(variant) for variant in zip(*images, strict=True)]


def nearest(clean: Tensor, delta: Tensor, most: int = 255) -> Tensor:
    """Add `delta`, rounded to whole pixel values of at most `most`, to `clean`, `uint8`, inside the pixel box."""
    whole = delta.round().clamp(-most, most).to(torch.int16)
    return (clean.to(torch.int16) + whole).clamp(0, 255).to(torch.uint8, memory_format=torch.contiguous_format)


def _along_rays(
    clean: Pixels, moves: Sequence[NDArray[np.float32]], attack: Attack, radius: float | None, key: Sequence[object]
) -> list[Pixels]:
    """One image at every point of an attack with an L2 or RMSD budget."""
    budget = attack.budget
    images: list[Pixels] = []
    ray: PerturbationRay | None = None
    for (_, level), move in zip(attack.scored_points, moves, strict=True):
        rmsd = radius if level is None else budgets.rmsd_of(budget, level, clean.size)
        assert rmsd is not None, "an L2 or RMSD budget has a length"
        if ray is None or len(budget.levels) == 1:
            # All lengths of a sweep scale the same direction.
            ray = PerturbationRay(clean, move, draws(clean.size, *key))
        if budget.l2 is not None:
            whole = nearest(torch.from_numpy(clean), torch.from_numpy(move)).numpy()
            fits = budgets.distances(clean, whole)[0] <= rmsd
            images.append(whole if fits else ray.at(rmsd, beyond=False))
        else:
            images.append(ray.at(rmsd))
    return images
