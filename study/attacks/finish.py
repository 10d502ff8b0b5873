"""Rounding of float perturbations to 8-bit images within the budget.

Target models see only 8-bit images, because image files have 8 bits per value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.attacks import budget as budgets
from study.attacks.budget import Pixels
from study.attacks.kinds import BudgetRule
from study.attacks.rays import Rays
from study.attacks.recipe import Attack
from study.attacks.rounding import PerturbationRay
from study.devices.copies import is_host, uploaded
from study.reproducibility.rng import draws, draws_on
from study.reproducibility.words import order as word_order

_HALVINGS = 16

_TOGETHER = 2**21
"""Number of pixel values for which `Rays` computes images at once on a GPU."""


def finish(
    clean: Tensor,
    deltas: Sequence[Tensor],
    attack: Attack,
    radii: NDArray[np.float64] | None,
    keys: Sequence[Sequence[object]],
) -> list[Tensor]:
    """Return the finished images of every point of an attack, `uint8` (N, C, H, W), one tensor for each point.

    `deltas` are the perturbations at these points, float (N, C, H, W). The budget decides how they are rounded:

    - no budget: to the nearest pixel value, inside the pixel box;
    - epsilon: to the nearest pixel value, inside the pixel box and never beyond epsilon;
    - RMSD: the perturbation is scaled until the image, clipped and rounded, has this RMSD (Liu et al. 2017, section
      3.2.1). If the pixel box prevents it, the image has the largest RMSD that the box allows in this direction;
    - L2: to the nearest pixel value if the result is within the norm. Otherwise the perturbation is scaled as for an
      RMSD, but never beyond the norm;
    - another rule: the perturbation is projected, and `within` rounds it so that the image is within the radius.

    `clean` is `uint8` (N, C, H, W). The images stay on the device of `clean`. `radii` (N,) are the radii of the images,
    or None if the budget has no single radius. `keys`, one for each image, key the random numbers of rounding.
    """
    rule = attack.assembly.budget
    if rule.rounding == "nearest":
        levels = [level for _, level in attack.scored_points]
        return [
            nearest(clean, delta, 255 if level is None else math.floor(level))
            for delta, level in zip(deltas, levels, strict=True)
        ]
    if rule.rounding == "measured":
        found = []
        for delta, (_, level) in zip(deltas, attack.scored_points, strict=True):
            ball = uploaded(_radii(rule, level, radii, clean), clean.device, torch.float32)
            onto = rule.projection(clean.to(torch.float32), (level,), ball)
            ties = draws_on(clean.device, clean[0].numel(), keys)
            found.append(within(clean, onto(delta), rule, ball, ties))
        return found
    if not is_host(clean.device):
        parts = [_along_rays_there(*part, attack) for part in _parts(clean, deltas, radii, keys)]
        return [torch.cat(variant) for variant in zip(*parts, strict=True)]
    before, moves = clean.numpy(), [delta.contiguous().numpy() for delta in deltas]
    images = []
    for row, key in enumerate(keys):
        radius = None if radii is None else float(radii[row])
        images.append(_along_rays(before[row], [move[row] for move in moves], attack, radius, key))
    return [torch.from_numpy(np.stack(variant)) for variant in zip(*images, strict=True)]


def nearest(clean: Tensor, delta: Tensor, most: int = 255) -> Tensor:
    """Return `clean` (`uint8`) plus `delta`, where `delta` is first rounded to whole numbers from -`most` to `most`.

    The result is clipped to 0..255.
    """
    whole = delta.round().clamp(-most, most).to(torch.int16)
    return (clean.to(torch.int16) + whole).clamp(0, 255).to(torch.uint8, memory_format=torch.contiguous_format)


def within(clean: Tensor, delta: Tensor, rule: BudgetRule, radius: Tensor, ties: Tensor) -> Tensor:
    """Return `clean` plus `delta`, rounded to `uint8` (N, C, H, W) so that the size by `rule` is at most `radius` (N,).

    If an image is too large even with all magnitudes of `delta` rounded down, `delta` is first multiplied by a scale
    below 1. Then all magnitudes are rounded down, except that as many as the rule allows are rounded up: the largest
    fractions first, and equal fractions in the order of `ties` (N, C * H * W), as in `PerturbationRay`. Bisection finds
    the scale of `delta` and the number of pixels to round up.
    """
    origin, sign, length = clean.to(torch.float32), delta.sign().flatten(1), delta.abs().flatten(1)

    def made(whole: Tensor) -> Tensor:
        moved = clean.flatten(1).to(torch.int16) + (sign * whole).to(torch.int16)
        return moved.clamp(0, 255).to(torch.uint8).view_as(clean)

    def fits(image: Tensor) -> Tensor:
        return rule.measure(image.to(torch.float32) - origin, origin) <= radius

    low, high = torch.zeros_like(radius), torch.ones_like(radius)
    whole = fits(made(length.floor()))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        fine = fits(made((middle[:, None] * length).floor()))
        low, high = torch.where(fine, middle, low), torch.where(fine, high, middle)
    length = torch.where(whole, 1, low)[:, None] * length
    down = length.floor()
    fraction = length - down
    by_ties = word_order(ties)
    order = by_ties.gather(1, (-fraction.gather(1, by_ties)).argsort(dim=1, stable=True))
    place = torch.arange(order.shape[1], device=order.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, place)
    least, most = torch.zeros_like(rank[:, :1]), (fraction > 0).sum(1, keepdim=True)
    for _ in range(order.shape[1].bit_length() + 1):
        count = (least + most + 1) // 2
        fine = fits(made(down + (rank < count)))[:, None]
        least, most = torch.where(fine, count, least), torch.where(fine, most, count - 1)
    return made(down + (rank < least))


def _radii(
    rule: BudgetRule, level: float | None, radii: NDArray[np.float64] | None, clean: Tensor
) -> NDArray[np.float64]:
    """Return the radius (N,) of each image at one point of an attack.

    These are `radii` if they are given; else the radius that follows from the length `level` of the budget.
    """
    if radii is not None:
        return radii
    radius = None if level is None else rule.radius(level, clean[0].numel())
    assert radius is not None, "an L2 or RMSD budget, or one that a rule measures, has a length"
    return np.full(len(clean), radius)


def _along_rays(
    clean: Pixels, moves: Sequence[NDArray[np.float32]], attack: Attack, radius: float | None, key: Sequence[object]
) -> list[Pixels]:
    """Return the finished image (C, H, W) of one clean image at every point of an attack with an L2 or RMSD budget."""
    rule, several = attack.assembly.budget, len(attack.budget.levels) > 1
    images: list[Pixels] = []
    ray: PerturbationRay | None = None
    for (_, level), move in zip(attack.scored_points, moves, strict=True):
        rmsd = radius if level is None else rule.radius(level, clean.size)
        assert rmsd is not None, "an L2 or RMSD budget has a length"
        if ray is None or not several:
            # With several lengths of a budget, all points have the same direction, so one ray serves all of them.
            ray = PerturbationRay(clean, move, draws(clean.size, *key))
        if rule.rounding == "ray or nearest":
            whole = nearest(torch.from_numpy(clean), torch.from_numpy(move)).numpy()
            fits = budgets.distances(clean, whole)[0] <= rmsd
            images.append(whole if fits else ray.at(rmsd, beyond=False))
        else:
            images.append(ray.at(rmsd))
    return images


_Part = tuple[Tensor, list[Tensor], NDArray[np.float64] | None, Sequence[Sequence[object]]]


def _parts(
    clean: Tensor, deltas: Sequence[Tensor], radii: NDArray[np.float64] | None, keys: Sequence[Sequence[object]]
) -> Iterator[_Part]:
    """Yield the arguments of `_along_rays_there` for a few images at a time.

    `Rays` takes about 200 bytes of memory for each pixel value, so all images at once could exceed the memory.
    """
    together = max(1, _TOGETHER // clean[0].numel())
    for first in range(0, len(clean), together):
        these = slice(first, first + together)
        yield clean[these], [one[these] for one in deltas], None if radii is None else radii[these], keys[these]


def _along_rays_there(
    clean: Tensor,
    moves: Sequence[Tensor],
    radii: NDArray[np.float64] | None,
    keys: Sequence[Sequence[object]],
    attack: Attack,
) -> list[Tensor]:
    """Return the same images as `_along_rays`, but for N clean images at once, on their device.

    The result has one tensor (N, C, H, W) for each point of the attack.
    """
    rule, numbers = attack.assembly.budget, clean[0].numel()
    images: list[Tensor] = []
    rays: Rays | None = None
    for (_, level), move in zip(attack.scored_points, moves, strict=True):
        length = uploaded(_radii(rule, level, radii if level is None else None, clean), clean.device)
        if rays is None or len(attack.budget.levels) == 1:
            rays = Rays(clean, move, draws_on(clean.device, numbers, keys))
        if rule.rounding == "ray":
            images.append(rays.at(length))
            continue
        whole = nearest(clean, move)
        squares, _ = budgets.integer_distances(clean, whole)
        fits = (squares.to(torch.float64) / numbers).sqrt() <= length
        images.append(torch.where(fits[:, None, None, None], whole, rays.at(length, beyond=False)))
    return images
