"""The denoising U-Net of HGD (Liao et al. 2018, arXiv:1712.02976).

The network maps normalised images (N, 3, H, W) to denoised images of the same shape. Its parameters have the names that
follow `denoise.` in the authors' files.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_DOWN, _DOWN_LAYERS = (64, 128, 256, 256, 256), (2, 3, 3, 3, 3)
_UP, _UP_LAYERS = (64, 128, 256, 256), (2, 3, 3, 3)


class _Layer(nn.Module):
    """A 3x3 convolution with batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, images: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(images)))


def _level(inputs: int, outputs: int, layers: int, stride: int = 1) -> nn.Sequential:
    rest = (_Layer(outputs, outputs) for _ in range(layers - 1))
    return nn.Sequential(_Layer(inputs, outputs, stride), *rest)


class Denoiser(nn.Module):
    """The denoising U-Net: five levels (groups of layers) down, four levels up, and a skip connection to each level up.

    On the way down, each level but the first halves the height and width of the features. On the way up, the features
    are resized bilinearly with aligned corners, as PyTorch did in 2017. The output of the last layer is added to the
    images.
    """

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *_DOWN[:-1])
        down = zip(inputs, _DOWN, _DOWN_LAYERS, range(len(_DOWN)), strict=True)
        self.fwd = nn.ModuleList(
            _level(before, after, layers, stride=1 if number == 0 else 2) for before, after, layers, number in down
        )
        above = (*_UP[1:], _DOWN[-1])
        up = zip(above, _DOWN[:-1], _UP, _UP_LAYERS, strict=True)
        self.back = nn.ModuleList(_level(below + beside, outputs, layers) for below, beside, outputs, layers in up)
        self.final = nn.Conv2d(_UP[0], 3, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        features, beside = images, []
        for level in self.fwd:
            features = level(features)
            beside.append(features)
        for level, known in zip(reversed(self.back), reversed(beside[:-1]), strict=True):
            features = functional.interpolate(features, size=known.shape[2:], mode="bilinear", align_corners=True)
            features = level(torch.cat([features, known], 1))
        moved: Tensor = self.final(features)
        return images + moved
