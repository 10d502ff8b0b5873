"""Compute all measures of visibility for the adversarial images of one unit (one attack run on a few images)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from study.devices.copies import is_host, uploaded
from study.reproducibility import numerics
from study.visibility.ciede2000 import colour_difference
from study.visibility.ssim import SMALLEST, ssim

if TYPE_CHECKING:
    from study.visibility.lpips import Lpips

_DIGITS = 5
_TOGETHER = 16
"""Number of images in one forward pass on a GPU."""


@dataclass(frozen=True)
class Visibility:
    """The measures of M adversarial images, float64 (M,).

    Attributes:
        ssim: Structural similarity, at most 1; NaN for images smaller than SSIM's window of 11 pixels.
        ciede2000: Mean colour difference over the pixels, 0 or more.
        lpips: LPIPS, 0 or more; None if the network of LPIPS was not given.
    """

    ssim: NDArray[np.float64]
    ciede2000: NDArray[np.float64]
    lpips: NDArray[np.float64] | None = None


def visibility(
    clean: NDArray[np.uint8], adversarial: NDArray[np.uint8], device: str = "cpu", network: Lpips | None = None
) -> Visibility:
    """Return the measures of `adversarial` (V * N, C, H, W): V variants of all images of `clean` (N, C, H, W).

    Both arrays are `uint8`. Row r of `adversarial` belongs to row r modulo N of `clean`. `network` is the network of
    LPIPS; without it, LPIPS is not computed. The measures are computed in float32 and rounded to 1e-5. Therefore they
    hardly depend on how many images are computed in one pass. A CPU computes each image in its own pass.
    """
    together = 1 if is_host(device) else _TOGETHER
    passes = list(_computed(clean, adversarial, device, together, network))
    if not passes:
        return Visibility(np.zeros(0), np.zeros(0), None if network is None else np.zeros(0))
    found = [np.concatenate(each).round(_DIGITS) for each in zip(*passes, strict=True)]
    return Visibility(found[0], found[1], None if network is None else found[2])


def _computed(
    clean: NDArray[np.uint8], adversarial: NDArray[np.uint8], device: str, together: int, network: Lpips | None
) -> Iterator[list[NDArray[np.float64]]]:
    """Yield, for each pass of `together` images, the arrays of SSIM, CIEDE2000 and, if `network` is given, LPIPS."""
    large = min(clean.shape[2:]) >= SMALLEST
    for start in range(0, len(adversarial), together):
        rows = np.arange(start, min(start + together, len(adversarial)))
        after = uploaded(adversarial[rows], device).float()
        before = uploaded(clean[rows % len(clean)], device).float()
        alike = ssim(before, after).double().cpu().numpy() if large else np.full(len(rows), np.nan)
        found = [alike, colour_difference(before, after).double().cpu().numpy()]
        if network is not None:
            with torch.inference_mode(), numerics.pixel_algebra(device):
                found.append(network(before, after).double().cpu().numpy())
        yield found
