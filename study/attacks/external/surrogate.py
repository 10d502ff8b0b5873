"""A source model in the form that libraries expect, with a count of the passes through it.

Libraries leave hooks behind, replace modules and train weights. Each call gets a copy of the network, so that none of
this reaches another attack.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from study.models.classifier import Classifier, fitted


@dataclass
class Passes:
    """The number of images that passed through source models, and of gradients that reached the models' inputs."""

    forwards: int = 0
    gradients: int = 0


def surrogate(model: nn.Module, passes: Passes) -> nn.Sequential:
    """Return two modules in sequence: images (N, C, H, W) in 0..1 -> the network's input -> logits (N, labels).

    `model` takes pixels in 0..255. For a classifier, the second module is a copy of its network, with the names of its
    zoo (`surrogate[1].layer2`); any other model is copied whole. The passes through the copy are added to `passes`:
    every image counts, also each view of an image, and so does its gradient if a backward pass reaches the input. If an
    attack calls the network's layers one by one, its passes are not counted. Weights require no gradient.
    """
    if isinstance(model, Classifier):
        first: nn.Module = NetworkInput(model)
        network = copy.deepcopy(model.network)
        _arrange(network, model)
    else:
        first, network = _Pixels(), copy.deepcopy(model)
    _watch(network, passes)
    return nn.Sequential(first, network).eval()


class NetworkInput(nn.Module):
    """Images (N, C, H, W) in 0..1 -> the input of a classifier's network: resized, normalised, in its channel order.

    If the network's own input range is 0..1, this is (x - mean) / std, bit for bit as users of attack libraries
    write it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.preprocessing = model.preprocessing
        self.memory_format = model.memory_format
        self.register_buffer("mean", model.mean, persistent=False)
        self.register_buffer("std", model.std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        expected = self.preprocessing
        images = fitted(images, expected)
        if expected.scale != 255:
            images = images * (255 / expected.scale)
        normalised = (images - self.mean) / self.std
        return normalised.contiguous(memory_format=self.memory_format)


class _Pixels(nn.Module):
    """Images in 0..1 -> pixels in 0..255."""

    def forward(self, images: Tensor) -> Tensor:
        return images * 255


# Hooks are plain functions. If an attack copies the network, the copy keeps them, and its passes count too.


def _arrange(network: nn.Module, model: Classifier) -> None:
    """Let the network return logits (N, labels) in the order of the study's labels."""

    def arranged(_module: nn.Module, _given: Any, found: Tensor) -> Tensor:
        return model.in_order(found)

    network.register_forward_hook(arranged)


def _watch(network: nn.Module, passes: Passes) -> None:
    def reached(gradient: Tensor) -> None:
        passes.gradients += len(gradient)

    def entered(_module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not given or not isinstance(given[0], Tensor):
            return None
        seen = given[0]
        passes.forwards += len(seen)
        if not torch.is_grad_enabled() or not seen.is_floating_point():
            return None
        # Weights require no gradient here, but libraries expect that all features have a gradient. The view or copy
        # belongs to this pass alone: a hook on the tensor itself would also count other passes.
        seen = seen.view_as(seen) if seen.requires_grad else seen.detach().requires_grad_(True).clone()
        seen.register_hook(reached)  # type: ignore[no-untyped-call]
        return (seen, *given[1:])

    network.register_forward_pre_hook(entered)
