"""Replace layers whose backward pass on a GPU sums gradients in random order. Results are equal up to rounding.

PyTorch's adaptive average pooling is such a layer if its output is larger than 1 x 1, as in VGG and AlexNet.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional


class OrderedPool(nn.AdaptiveAvgPool2d):
    """Adaptive average pooling with a backward pass that sums gradients in a fixed order on every device."""

    def forward(self, input: Tensor) -> Tensor:
        asked = self.output_size if isinstance(self.output_size, tuple) else (self.output_size, self.output_size)
        old = (int(input.shape[-2]), int(input.shape[-1]))
        new = tuple(have if want is None else int(want) for have, want in zip(old, asked, strict=True))
        if old[0] % new[0] == 0 and old[1] % new[1] == 0:
            return functional.avg_pool2d(input, (old[0] // new[0], old[1] // new[1]))
        down, across = (_means(*one, str(input.device)) for one in zip(old, new, strict=True))
        return down.to(input.dtype) @ input @ across.to(input.dtype).t()


def order_gradients(network: nn.Module) -> None:
    """Replace each `nn.AdaptiveAvgPool2d` in `network` by `OrderedPool`, in place. All modules keep their names."""
    for name, one in list(network.named_modules()):
        if name and type(one) is nn.AdaptiveAvgPool2d:
            network.set_submodule(name, OrderedPool(one.output_size))


@functools.lru_cache(maxsize=64)
def _means(old: int, new: int, device: str) -> Tensor:
    """Return the matrix (new, old) that computes the means over the windows of adaptive pooling along one axis."""
    matrix = torch.zeros(new, old)
    for place in range(new):
        first, end = place * old // new, -(-(place + 1) * old // new)
        matrix[place, first:end] = 1 / (end - first)
    return matrix.to(device)
