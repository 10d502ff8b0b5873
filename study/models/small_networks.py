"""A small CNN and a small ViT for grey images of 28 x 28 pixels. Both can be trained on a laptop."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

_SIDE = 28
_CHANNELS = (1, 16, 32, 64)
_HIDDEN = 128
_PATCH, _WIDTH, _BLOCKS, _HEADS = 7, 48, 4, 4


class SmallCNN(nn.Module):
    """Three 3x3 convolutions of 16, 32 and 64 channels, each with ReLU and 2x2 max-pooling, and two linear layers.

    The network maps float images (N, 1, 28, 28) to logits (N, num_classes). It has no batch norm, because batch
    statistics of adversarial training images would not fit clean images.
    """

    def __init__(self, *, num_classes: int = 10) -> None:
        super().__init__()
        pairs = itertools.pairwise(_CHANNELS)
        self.convolutions = nn.ModuleList(nn.Conv2d(inputs, outputs, 3, padding=1) for inputs, outputs in pairs)
        self.hidden = nn.Linear(_CHANNELS[-1] * (_SIDE // 8) ** 2, _HIDDEN)
        self.last = nn.Linear(_HIDDEN, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None, "every layer here has a bias"
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        features = images
        for convolution in self.convolutions:
            features = functional.max_pool2d(functional.relu(convolution(features)), 2)
        logits: Tensor = self.last(functional.relu(self.hidden(features.flatten(1))))
        return logits


def small_vit(*, num_classes: int = 10) -> VisionTransformer:
    """Return the vision transformer of Dosovitskiy et al. 2021 with 4 blocks of width 48 on patches of 7 x 7 pixels.

    The network maps float images (N, 1, 28, 28) to logits (N, num_classes). Its class is timm's, so that attacks on
    attention recognise its attention modules.
    """
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=_SIDE,
        patch_size=_PATCH,
        in_chans=1,
        num_classes=num_classes,
        embed_dim=_WIDTH,
        depth=_BLOCKS,
        num_heads=_HEADS,
        mlp_ratio=2,
    )


def drawn(network: str, seed: int) -> nn.Module:
    """Return the network `mnist_cnn` or `mnist_vit` with random initial weights, which `seed` determines."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SMALL_NETWORKS[network]()


SMALL_NETWORKS: dict[str, Callable[..., nn.Module]] = {"mnist_cnn": SmallCNN, "mnist_vit": small_vit}
"""For each name, the function that builds the network. Each function takes `num_classes`."""
