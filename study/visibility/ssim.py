"""Structural similarity, SSIM: Wang et al. 2004 (doi:10.1109/TIP.2003.819861)."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

_RADIUS, _SIGMA = 5, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

SMALLEST = 2 * _RADIUS + 1
"""The side of the window in pixels. Smaller images have no SSIM."""


def ssim(clean: Tensor, adversarial: Tensor) -> Tensor:
    """Return the mean structural similarity (N,) of images (N, C, H, W) of floats in pixel values 0..255.

    The constants and the window are those of the paper: the window is a Gaussian of 11 x 11 pixels with a standard
    deviation of 1.5 pixels. The mean covers all channels and all positions where the window fits into the image. The
    similarity of equal images is 1.
    """
    mean_a, mean_b = _blurred(clean), _blurred(adversarial)
    variance_a = _blurred(clean * clean) - mean_a * mean_a
    variance_b = _blurred(adversarial * adversarial) - mean_b * mean_b
    covariance = _blurred(clean * adversarial) - mean_a * mean_b
    alike = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    whole = (mean_a * mean_a + mean_b * mean_b + _C1) * (variance_a + variance_b + _C2)
    return (alike / whole).mean((1, 2, 3))


def _blurred(values: Tensor) -> Tensor:
    """Return the Gaussian mean at each position where the window fits into the image.

    The window is separable, so one pass along each axis computes the mean.
    """
    for dim in (2, 3):
        length = values.shape[dim] - 2 * _RADIUS
        parts = (weight * values.narrow(dim, start, length) for start, weight in enumerate(_window()))
        values = functools.reduce(torch.add, parts)
    return values


@functools.cache
def _window() -> tuple[float, ...]:
    places = torch.arange(-_RADIUS, _RADIUS + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (places / _SIGMA) ** 2)
    return tuple((weights / weights.sum()).tolist())
