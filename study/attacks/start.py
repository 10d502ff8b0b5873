"""The start of an attack: the clean image, a random point within the budget, or Gaussian noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from study.attacks.recipe import Attack
from study.attacks.step import l2_normalised
from study.reproducibility.rng import Streams


def perturbation(attack: Attack, origin: Tensor, rmsd: Tensor | None, streams: Streams) -> Tensor:
    """Return the first perturbation, float (N, C, H, W) like `origin`, in pixel values; not yet in the pixel box.

    A random start is uniform in the epsilon cube (Madry et al. 2018, arXiv:1706.06083); for an L2 or RMSD budget, in
    the ball with each image's radius, `rmsd` (N,).
    """
    if attack.start is None:
        return torch.zeros_like(origin)
    shape, device = origin.shape[1:], str(origin.device)
    if attack.start.gaussian is not None:
        return attack.start.gaussian * streams.normal(shape, device, "start")
    if attack.budget.epsilon is not None:
        (epsilon,) = attack.budget.levels
        assert epsilon is not None, "an epsilon budget has an epsilon"
        return epsilon * streams.uniform(shape, device, "start")
    assert rmsd is not None, "a budget without an epsilon has a radius"
    words = streams.integers(1, "start", copy=1)[:, 0].tolist()
    count = origin[0].numel()
    inside = torch.tensor([((word + 0.5) / 2**64) ** (1 / count) for word in words], device=device)
    direction = l2_normalised(streams.normal(shape, device, "start")) * math.sqrt(count)
    return (rmsd * inside)[:, None, None, None] * direction
