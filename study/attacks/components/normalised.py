"""A function that divides each image's gradient by the mean of its absolute values."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def by_mean(gradient: Tensor) -> Tensor:
    """Divide each image's gradient (N, C, H, W) by the mean of its absolute values. A zero gradient stays zero."""
    import torch

    mean = torch.linalg.vector_norm(gradient, 1, dim=(1, 2, 3), keepdim=True) / gradient[0].numel()
    return gradient / torch.where(mean > 0, mean, 1)
