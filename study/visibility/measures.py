"""Compute all measures of visibility for the adversarial images of one unit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from study.devices.copies import is_host, uploaded
from study.visibility.ciede2000 import colour_difference
from study.visibility.ssim import SMALLEST, ssim

_DIGITS = 5
_TOGETHER = 16
"""Number of images that a GPU computes together."""


@dataclass(frozen=True)
class Visibility:
    """The measures of M adversarial images, float64 (M,).

    Attributes:
        ssim: Structural similarity, up to 1; NaN for images smaller than its window of 11 pixels.
        ciede2000: Mean colour difference over the pixels, 0 or more.
    """

    ssim: NDArray[np.float64]
    ciede2000: NDArray[np.float64]


def visibility(clean: NDArray[np.uint8], adversarial: NDArray[np.uint8], device: str = "cpu") -> Visibility:
    """Return the measures of `adversarial` (V * N, C, H, W): V variants of all images of `clean` (N, C, H, W).

    Both arrays are `uint8`; row r of `adversarial` belongs to row r modulo N of `clean`. The measures are computed in
    float32 and rounded to 1e-5. Therefore they do not depend on how many images are computed together. A CPU computes
    each image alone.
    """
    together = 1 if is_host(device) else _TOGETHER
    pairs = list(_computed(clean, adversarial, device, together))
    if not pairs:
        return Visibility(np.zeros(0), np.zeros(0))
    alike, colours = (np.concatenate(each).round(_DIGITS) for each in zip(*pairs, strict=True))
    return Visibility(alike, colours)


def _computed(
    clean: NDArray[np.uint8], adversarial: NDArray[np.uint8], device: str, together: int
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    large = min(clean.shape[2:]) >= SMALLEST
    for start in range(0, len(adversarial), together):
        rows = np.arange(start, min(start + together, len(adversarial)))
        after = uploaded(adversarial[rows], device).float()
        before = uploaded(clean[rows % len(clean)], device).float()
        alike = ssim(before, after).double().cpu().numpy() if large else np.full(len(rows), np.nan)
        yield alike, colour_difference(before, after).double().cpu().numpy()
