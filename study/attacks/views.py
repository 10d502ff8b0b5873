"""Views: transformed copies of an image. An attack averages the gradients over them. Every view is linear in the image.

The order of the transformations is: mix in another image (admix), add Gaussian noise (SG), scale by 1/2^i (SI), resize
and pad at random (DI). The random numbers of a copy depend on its own number, not on the number of copies in a pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.attacks.recipe import Admix, Attack, Diversity
from study.reproducibility.rng import Streams


@dataclass(frozen=True)
class Pool:
    """Images that admix mixes in: `uint8` (P, C, H, W), and their labels (P,)."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


class Views:
    """The views of one batch."""

    def __init__(self, attack: Attack, streams: Streams, labels: NDArray[np.int64], pool: Pool | None) -> None:
        """`labels` (N,) are the true labels: admix mixes in images of other classes. It needs `pool` (ValueError)."""
        if attack.admix is not None and pool is None:
            raise ValueError("admix needs a pool of images")
        self._attack = attack
        self._streams = streams
        self._labels = labels
        self._pool = pool

    def make(self, image: Tensor, step: int, copy: int) -> Tensor:
        """Return copy number `copy` of `image`, float (N, C, H, W), at a step: differentiable, with the same shape."""
        attack, device = self._attack, str(image.device)
        scaled, scale = divmod(copy, attack.scales)
        if attack.admix is not None:
            per_other = attack.smoothing.copies if attack.smoothing else 1
            image = image + attack.admix.strength * self._others(attack.admix, image, step, scaled // per_other)
        if attack.smoothing is not None:
            image = image + attack.smoothing.sigma * self._streams.normal(
                image.shape[1:], device, "gaussian", step, scaled
            )
        if scale:
            image = image / 2**scale
        if attack.diversity is not None:
            image = diversify(image, attack.diversity, self._streams.integers(4, "diversity", step, copy))
        return image

    def _others(self, admix: Admix, image: Tensor, step: int, number: int) -> Tensor:
        assert self._pool is not None, "__init__ has checked it"
        drawn = self._streams.integers(1, "admix", step, number)[:, 0]
        chosen = []
        for label, word in zip(self._labels.tolist(), drawn.tolist(), strict=True):
            other = np.flatnonzero(self._pool.labels != label)
            chosen.append(int(other[word % len(other)]) if len(other) else int(word % len(self._pool.labels)))
        return torch.from_numpy(self._pool.pixels[chosen]).to(image.device, image.dtype)


def diversify(image: Tensor, diversity: Diversity, words: NDArray[np.uint64]) -> Tensor:
    """Resize and pad every image of a batch (N, C, S, S) by its own four random `words` (N, 4), and resize back to S.

    Xie et al. 2019 (arXiv:1803.06978). Resizing is linear along each axis: each image is multiplied by one matrix from
    the left and one from the right. This handles a whole batch at once and is deterministic on every device.
    """
    size = image.shape[-1]
    frame = max(size, round(diversity.high * size))
    back = _resize(frame, size, "bilinear")
    rows, columns, covered = [], [], []
    for chance, extent, top, left in words.tolist():
        if chance / 2**64 >= diversity.probability:
            rows.append(np.eye(size))
            columns.append(np.eye(size))
            covered.append((np.ones(size), np.ones(size)))
            continue
        low, high = round(diversity.low * size), round(diversity.high * size)
        inner = low + extent % max(1, high - low)
        resize = _resize(size, inner, diversity.interpolation)
        matrices = []
        for word in (top, left):
            start = word % (frame - inner + 1)
            matrices.append(back[:, start : start + inner] @ resize)
        rows.append(matrices[0])
        columns.append(matrices[1])
        covered.append((matrices[0].sum(1), matrices[1].sum(1)))

    def tensor(values: Sequence[NDArray[np.float64]]) -> Tensor:
        return torch.from_numpy(np.stack(values)).to(image.device, image.dtype)[:, None]

    moved = tensor(rows) @ image @ tensor(columns).transpose(-1, -2)
    if diversity.padding:
        inside = tensor([np.outer(*one) for one in covered])
        moved = moved + diversity.padding * (1 - inside)
    return moved


def _resize(old: int, new: int, interpolation: str) -> NDArray[np.float64]:
    """The matrix (new, old) of torch's `interpolate` along one axis, with align_corners=False."""
    matrix = np.zeros((new, old))
    places = np.arange(new)
    if interpolation == "nearest":
        matrix[places, np.minimum((places * (old / new)).astype(int), old - 1)] = 1
        return matrix
    centre = ((places + 0.5) * (old / new) - 0.5).clip(min=0)
    below = np.minimum(centre.astype(int), old - 1)
    above = np.minimum(below + 1, old - 1)
    np.add.at(matrix, (places, below), 1 - (centre - below))
    np.add.at(matrix, (places, above), centre - below)
    return matrix
