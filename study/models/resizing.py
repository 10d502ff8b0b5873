"""Resize images as torch's `interpolate` does, with gradients that are equal in every run.

On a GPU, the backward pass of `interpolate` sums gradients in random order. Therefore bilinear and bicubic resizing on
a GPU is computed by matrix products, which sum gradients in a fixed order.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from study.reproducibility import numerics

_SMOOTH = ("bilinear", "bicubic")


def resized(images: Tensor, size: int, interpolation: str) -> Tensor:
    """Return images (N, C, H, W), with any range of values, resized to `size` x `size` pixels.

    If the images shrink, `bilinear` and `bicubic` interpolation use antialiasing.
    """
    smooth = interpolation in _SMOOTH
    if smooth and images.device.type != "cpu":
        return resized_in_order(images, size, interpolation)
    return functional.interpolate(images, (size, size), mode=interpolation, antialias=smooth)


def resized_in_order(images: Tensor, size: int, interpolation: str) -> Tensor:
    """Return what `resized` returns for `bilinear` and `bicubic`, computed by two matrix products in float32."""
    down, across = (_matrix(old, size, interpolation, str(images.device)) for old in images.shape[-2:])
    found: Tensor = _Resized.apply(images, down.to(images.dtype), across.to(images.dtype))
    return found


@functools.lru_cache(maxsize=32)
def _matrix(old: int, new: int, interpolation: str, device: str) -> Tensor:
    """Return the matrix (new, old) of `interpolate` along one axis, float64. Its columns are resized unit vectors."""
    units = torch.eye(old, dtype=torch.float64)[None, None]
    found = functional.interpolate(units, (old, new), mode=interpolation, antialias=True)
    return found[0, 0].t().contiguous().to(device)


class _Resized(torch.autograd.Function):
    """The two matrix products that resize an image along its two axes.

    The forward and the backward pass compute in float32, without TF32 and bfloat16.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, down: Tensor, across: Tensor) -> Tensor:
        ctx.save_for_backward(down, across)
        with numerics.pixel_algebra(images.device.type):
            return down @ images @ across.t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        down, across = ctx.saved_tensors
        with numerics.pixel_algebra(gradients[0].device.type):
            return down.t() @ gradients[0].to(down.dtype) @ across, None, None
