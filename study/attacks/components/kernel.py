"""Translation invariance, TI: gradients are convolved with a kernel, which approximates a mean over shifted images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from study.attacks.budget_spec import Positive
from study.attacks.kinds import State, StepContext, Update
from study.attacks.registry import register
from study.devices.copies import is_host, moved
from study.devices.tables import kept

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@register
class Kernel(Update):
    """Translation invariance, TI: gradients are convolved with this kernel (Dong et al. 2019, arXiv:1904.02884).

    Section 3.3 of the paper defines the three values of `shape`. `size` is the width of the kernel in pixels, 2k + 1.
    `sigma` is the standard deviation of the Gaussian kernel in pixels. The default of `sigma` is k / sqrt(3), as in the
    paper. The authors' code uses k / 3.
    """

    name: ClassVar[str] = "kernel"

    shape: Literal["uniform", "linear", "gaussian"] = "gaussian"
    size: Annotated[int, Field(ge=1, le=511)] = 15
    sigma: Positive | None = None

    @model_validator(mode="after")
    def _odd(self) -> Kernel:
        if self.size % 2 == 0:
            raise PydanticCustomError("parts", "a kernel's `size` must be odd: 2k + 1 for shifts by up to k pixels")
        if self.sigma is not None and self.shape != "gaussian":
            raise PydanticCustomError("parts", "only `shape: gaussian` has a `sigma`: remove `sigma` or change `shape`")
        return self

    def update(self, gradient: Tensor, step: StepContext, state: State) -> Tensor:
        return convolve(gradient, self)


def profile(kernel: Kernel) -> Tensor:
    """Return the profile of the kernel along one axis, float64 (size,), with the sum 1.

    The kernel is the outer product of the profile with itself. Let k be (size - 1) / 2, and let the shifts i and j go
    from -k to k. At (i, j), the kernel is proportional to:

    - `uniform`: 1;
    - `linear`: (1 - |i| / (k + 1)) (1 - |j| / (k + 1));
    - `gaussian`: exp(-(i^2 + j^2) / (2 sigma^2)). The default of sigma is k / sqrt(3).
    """
    import torch

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
    """Return `gradient`, float (N, C, H, W), convolved with the kernel along both axes.

    The result has the same shape. Values outside the image are 0.
    """
    import torch

    line = _line(kernel, gradient.device, gradient.dtype)
    if is_host(gradient.device):
        weights = line.tolist()
        return _shifted(_shifted(gradient.contiguous(), weights, 2), weights, 3)
    channels, reach = gradient.shape[1], (kernel.size - 1) // 2
    down, right = line.view(1, 1, -1, 1), line.view(1, 1, 1, -1)
    flat = gradient.reshape(-1, 1, *gradient.shape[2:])
    flat = torch.nn.functional.conv2d(flat, down, padding=(reach, 0))
    flat = torch.nn.functional.conv2d(flat, right, padding=(0, reach))
    return flat.reshape(-1, channels, *gradient.shape[2:])


def _shifted(image: Tensor, weights: Sequence[float], dim: int) -> Tensor:
    """Return the sum of copies of `image` (N, C, H, W) that are shifted along the axis `dim`, each with its weight.

    On a CPU, this takes about a tenth of the time of PyTorch's convolution, which is slow for a single channel.
    """
    from torch.nn import functional

    size, reach = image.shape[dim], len(weights) // 2
    padded = functional.pad(image, (0, 0, reach, reach) if dim == 2 else (reach, reach))
    found = padded.narrow(dim, 0, size) * weights[0]
    for place, weight in enumerate(weights[1:], start=1):
        found.add_(padded.narrow(dim, place, size), alpha=weight)
    return found


@kept
def _line(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> Tensor:
    return moved(profile(kernel).to(dtype), device)
