"""Rewrite convolutions that are slow in PyTorch on a CPU. Results are equal up to rounding.

- A first convolution with a large kernel and a stride. Its input gradient has only three channels, but takes 15 % of
  the time of a ResNet-18's forward and backward pass. A phase is the set of pixels at equal positions modulo the
  stride. All pixels of a phase use the same weights of the kernel. Therefore the gradient is computed as one
  convolution of stride 1 with separate channels for each phase, followed by a pixel shuffle.
- Convolutions with 1 x 1 kernels. With one thread and fewer than 16 images, PyTorch uses oneDNN for such a convolution
  only if it is strided or dilated. Therefore these convolutions get a dilation, which has no effect on a 1 x 1 kernel.
  An EfficientNet-Lite0 becomes a third faster.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_LEAST_KERNEL = 5
"""The smallest kernel that is rewritten. A 3 x 3 first convolution with stride 2 did not become faster."""


class Stem(nn.Module):
    """A module that computes `conv` with a faster backward pass. Its outputs have the same bits as those of `conv`."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        weight, self.before, self.after = _phases(conv.weight.detach(), conv.stride[0], int(conv.padding[0]))
        self.register_buffer("phases", weight, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = _Strided.apply(images, self)
        return found


def rewrite_convolutions(network: nn.Module) -> None:
    """Rewrite the slow convolutions of `network` in place. All modules keep their names."""
    for one in network.modules():
        if isinstance(one, nn.Conv2d) and one.kernel_size == (1, 1):
            one.dilation = (2, 2)
    _with_stem(network)


def _with_stem(network: nn.Module) -> None:
    first = next(((name, one) for name, one in network.named_modules() if isinstance(one, nn.Conv2d)), None)
    if any(isinstance(one, Stem) for one in network.modules()):
        return
    if first is not None and type(first[1]) is nn.Conv2d and _suited(first[1]):
        network.set_submodule(first[0], Stem(first[1]))


def _suited(conv: nn.Conv2d) -> bool:
    (rows, columns), (down, right) = conv.kernel_size, conv.stride
    padded = isinstance(conv.padding, tuple) and conv.padding[0] == conv.padding[1] and conv.padding_mode == "zeros"
    square = rows == columns and down == right and conv.dilation == (1, 1)
    return padded and square and conv.in_channels == 3 and conv.groups == 1 and rows >= _LEAST_KERNEL and down > 1


def _phases(weight: Tensor, stride: int, padding: int) -> tuple[Tensor, int, int]:
    """Return the weights (in * stride^2, out, n, n) that map an output gradient to the phases of the input gradient.

    `in` and `out` are the numbers of channels of the convolution. Also return the number of positions that each n x n
    kernel reaches before and after its own position. Along one axis, the output position o depends on the input
    position i through entry t = i + padding - stride * o of the convolution's kernel. Let r be the phase of i, so that
    i = stride * q + r, and let d = o - q. Then t = r + padding - stride * d.
    """
    out, channels, size, _ = weight.shape
    before, after = (size - 1 - padding) // stride, (stride - 1 + padding) // stride
    reach = before + after + 1
    phases = weight.new_zeros(channels, stride, stride, out, reach, reach)
    for row, column, down, right in itertools.product(range(stride), range(stride), range(reach), range(reach)):
        y = row + padding - stride * (down - before)
        x = column + padding - stride * (right - before)
        if 0 <= y < size and 0 <= x < size:
            phases[:, row, column, :, down, right] = weight[:, :, y, x].t()
    return phases.reshape(channels * stride**2, out, reach, reach), before, after


class _Strided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, stem: Stem) -> Tensor:
        ctx.stem, ctx.size = stem, images.shape[-2:]
        conv = stem.conv
        return functional.conv2d(images, conv.weight, conv.bias, conv.stride, conv.padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        stem, (height, width) = ctx.stem, ctx.size
        (gradient,) = gradients
        stride = stem.conv.stride[0]
        rows, columns = -(-height // stride), -(-width // stride)
        bottom = max(0, rows + stem.after - gradient.shape[-2])
        right = max(0, columns + stem.after - gradient.shape[-1])
        framed = functional.pad(gradient, (stem.before, right, stem.before, bottom))
        # After a forward pass in bfloat16, the gradient is bfloat16 too, but the weights are float32.
        found = functional.conv2d(framed.to(stem.phases.dtype), stem.phases)[..., :rows, :columns]
        return functional.pixel_shuffle(found, stride)[..., :height, :width], None
