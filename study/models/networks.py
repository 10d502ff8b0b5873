"""Networks that no zoo has: ResNets for CIFAR-10; fully connected networks, a CNN and a ViT for MNIST."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from study.models.classifier import Preprocessing
from study.models.small_networks import SMALL_NETWORKS

WIDTH = 500
SIDE = 28
DEPTHS = (0, 2, 4, 8)
_STAGES = (16, 32, 64)
_RESNETS = (20, 32, 44, 56, 110)


class CifarBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (option A of He et al. 2016).

    In a block that halves height and width, the shortcut takes every second pixel and adds channels of zeros. Half of
    these new channels are before the old channels and half after them, as in the published checkpoints.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.added = (outputs - inputs) // 2

    def forward(self, images: Tensor) -> Tensor:
        branch = functional.relu(self.bn1(self.conv1(images)))
        branch = self.bn2(self.conv2(branch))
        if self.added or self.stride > 1:
            images = images[:, :, :: self.stride, :: self.stride]
            images = functional.pad(images, (0, 0, 0, 0, self.added, self.added))
        return functional.relu(branch + images)


class CifarResNet(nn.Module):
    """The ResNet of He et al. 2016 for 32 x 32 pixels (arXiv:1512.03385, section 4.2). Each stage has `blocks` blocks.

    The network maps normalised float images (N, 3, H, W) to logits (N, num_classes). It has 6 * blocks + 2 layers. Its
    tensors have the same names as in the published checkpoints.
    """

    def __init__(self, blocks: int, *, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, _STAGES[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STAGES[0])
        self.layer1 = _stage(blocks, _STAGES[0], _STAGES[0], 1)
        self.layer2 = _stage(blocks, _STAGES[0], _STAGES[1], 2)
        self.layer3 = _stage(blocks, _STAGES[1], _STAGES[2], 2)
        self.linear = nn.Linear(_STAGES[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        features = functional.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: Tensor = self.linear(features.mean((2, 3)))
        return logits


def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    rest = (CifarBlock(outputs, outputs, 1) for _ in range(blocks - 1))
    return nn.Sequential(CifarBlock(inputs, outputs, stride), *rest)


class FullyConnected(nn.Module):
    """A network with `depth` hidden layers of 500 units with ReLU, for MNIST (Wu et al. 2019, smoothed gradients).

    The network maps float images (N, 1, 28, 28) to logits (N, num_classes). With depth 0, this is softmax regression.
    Weights are initialised as in He et al. 2015 (arXiv:1502.01852), which keeps the scale of activations through eight
    layers. Weights are drawn from `generator`, or from torch's global generator if `generator` is None.
    """

    def __init__(self, depth: int, *, num_classes: int = 10, generator: torch.Generator | None = None) -> None:
        super().__init__()
        sizes = [SIDE * SIDE, *[WIDTH] * depth]
        self.hidden = nn.ModuleList(_linear(size, WIDTH, generator) for size in sizes[:-1])
        self.last = _linear(sizes[-1], num_classes, generator)

    def forward(self, images: Tensor) -> Tensor:
        units = images.flatten(1)
        for layer in self.hidden:
            units = functional.relu(layer(units))
        logits: Tensor = self.last(units)
        return logits


def _linear(inputs: int, outputs: int, generator: torch.Generator | None) -> nn.Linear:
    # The meta device prevents PyTorch's own initialisation, which would draw from the global generator.
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    **{f"cifar_resnet{layers}": partial(CifarResNet, (layers - 2) // 6) for layers in _RESNETS},
    **{f"mnist_fnn{depth}": partial(FullyConnected, depth) for depth in DEPTHS},
    **SMALL_NETWORKS,
}
"""For each name, the function that builds the network. Each function takes `num_classes`."""

_CIFAR = Preprocessing(size=32, interpolation="bilinear", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_MNIST = Preprocessing(size=SIDE, interpolation="bilinear", mean=(0.0,), std=(1.0,))

PREPROCESSING: dict[str, Preprocessing] = {name: _CIFAR if name.startswith("cifar") else _MNIST for name in NETWORKS}
"""The preprocessing for each name of a network. For CIFAR-10, the published checkpoints were trained with it."""
