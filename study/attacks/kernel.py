"""Translation-invariant gradients: a convolution in place of an average over shifted images.

Dong et al. 2019 (arXiv:1904.02884), section 3.3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from study.attacks.recipe import Kernel


def profile(kernel: Kernel) -> Tensor:
    """Return the kernel along one axis, float64 (size,), sum 1. The kernel is the outer product of it with itself.

    With k = (size - 1) / 2 and shifts i, j from -k to k: uniform 1; linear (1 - |i| / (k + 1)) (1 - |j| / (k + 1));
    gaussian exp(-(i^2 + j^2) / (2 sigma^2)), sigma = k / sqrt(3) unless given.
    """
    reach = (kernel.size - 1) // 2
    shifts = torch.arange(-reach, reach + 1, dtype=torch.float64)
    if kernel.shape == "uniform":
        values = torch.ones_like(shifts)
    elif kernel.shape == "linear":
        values = 1 - shifts.abs() / (reach + 1)
    else:
        sigma = kernel.sigma or max(reach, 1) / math.sqrt(3)
        values = torch.exp(-shifts.square() / (2 * sigma**2))
    return values / values.sum()


def convolve(gradient: Tensor, kernel: Kernel) -> Tensor:
    """Convolve `gradient`, float (N, C, H, W), with the kernel along both axes, with zero padding."""
    line = profile(kernel).to(gradient.device, gradient.dtype)
    channels, reach = gradient.shape[1], (kernel.size - 1) // 2
    down, right = line.view(1, 1, -1, 1), line.view(1, 1, 1, -1)
    flat = gradient.reshape(-1, 1, *gradient.shape[2:])
    flat = torch.nn.functional.conv2d(flat, down, padding=(reach, 0))
    flat = torch.nn.functional.conv2d(flat, right, padding=(0, reach))
    return flat.reshape(-1, channels, *gradient.shape[2:])
