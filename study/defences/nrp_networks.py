"""The networks of NRP (Naseer et al. 2020, arXiv:2006.04924).

They map images (N, 3, H, W) in 0..1 to purified images of the same shape. Their parameters have the names that the
authors' files NRP.pth and NRP_resG.pth use.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_WIDTH, _GROWTH = 64, 32
_SCALE = 0.2
"""The output of every residual branch of `DensePurifier` is multiplied by this factor, as in ESRGAN."""


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class _DenseBlock(nn.Module):
    """Five convolutions. Each convolution gets the block's input and the outputs of all previous convolutions."""

    def __init__(self) -> None:
        super().__init__()
        for number in range(5):
            made = _convolution(_WIDTH + number * _GROWTH, _WIDTH if number == 4 else _GROWTH)
            self.add_module(f"conv{number + 1}", made)

    def forward(self, images: Tensor) -> Tensor:
        *first, last = self.children()
        held = images
        for convolution in first:
            held = torch.cat([held, functional.leaky_relu(convolution(held), 0.2)], 1)
        moved: Tensor = last(held)
        return images + _SCALE * moved


class _ResidualInResidual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.RDB1, self.RDB2, self.RDB3 = _DenseBlock(), _DenseBlock(), _DenseBlock()

    def forward(self, images: Tensor) -> Tensor:
        moved: Tensor = self.RDB3(self.RDB2(self.RDB1(images)))
        return images + _SCALE * moved


class DensePurifier(nn.Module):
    """The network of NRP.pth: `blocks` residual-in-residual dense blocks of 64 channels between two convolutions."""

    def __init__(self, blocks: int = 23) -> None:
        super().__init__()
        self.conv_first = _convolution(3, _WIDTH)
        self.RRDB_trunk = nn.Sequential(*(_ResidualInResidual() for _ in range(blocks)))
        self.trunk_conv = _convolution(_WIDTH, 3)

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.trunk_conv(self.RRDB_trunk(self.conv_first(images)))
        return made


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = _convolution(_WIDTH, _WIDTH), _convolution(_WIDTH, _WIDTH)

    def forward(self, images: Tensor) -> Tensor:
        moved: Tensor = self.conv2(functional.relu(self.conv1(images)))
        return images + moved


class ResidualPurifier(nn.Module):
    """The network of NRP_resG.pth: `blocks` residual blocks of 64 channels between two convolutions.

    It has no batch norm.
    """

    def __init__(self, blocks: int = 23) -> None:
        super().__init__()
        self.conv_first = _convolution(3, _WIDTH)
        self.recon_trunk = nn.Sequential(*(_Residual() for _ in range(blocks)))
        self.conv_last = _convolution(_WIDTH, 3)

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.conv_last(self.recon_trunk(functional.leaky_relu(self.conv_first(images), 0.1)))
        return made
