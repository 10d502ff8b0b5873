"""Matrices that resample or transform one axis of an image: torch's `interpolate`, and the cosine transform."""

from __future__ import annotations

import functools
import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Interpolation = Literal["nearest", "bilinear"]


def resized(old: int, new: int, interpolation: Interpolation) -> NDArray[np.float64]:
    """Return the matrix (new, old) of torch's `interpolate` along one axis, with align_corners=False."""
    matrix = np.zeros((new, old))
    places = np.arange(new)
    if interpolation == "nearest":
        # torch multiplies in float32, which sometimes gives the pixel beside the nearest one.
        nearest = places.astype(np.float32) * (np.float32(old) / np.float32(new))
        matrix[places, np.minimum(nearest.astype(int), old - 1)] = 1
        return matrix
    below, above, share = taps(old, new)
    np.add.at(matrix, (places, below), 1 - share)
    np.add.at(matrix, (places, above), share)
    return matrix


def taps(old: int, new: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return how bilinear interpolation computes `new` positions from `old` positions along one axis.

    For each new position, the three arrays (new,) have the two old positions that are mixed, and the weight of the
    second one.
    """
    centre = ((np.arange(new) + 0.5) * (old / new) - 0.5).clip(min=0)
    below = np.minimum(centre.astype(int), old - 1)
    return below, np.minimum(below + 1, old - 1), centre - below


@functools.lru_cache(maxsize=16)
def cosine_transform(size: int) -> NDArray[np.float64]:
    """Return the orthonormal matrix (size, size) of the cosine transform DCT-II: its transpose is the inverse."""
    order, place = np.arange(size)[:, None], np.arange(size)
    matrix = math.sqrt(2 / size) * np.cos(math.pi * order * (2 * place + 1) / (2 * size))
    matrix[0] /= math.sqrt(2)
    matrix.flags.writeable = False
    return matrix
