"""A source model in the form that libraries expect, with a count of the passes through this model.

Libraries leave hooks behind, replace modules and train weights. Each call therefore gets a copy of the network, so that
such changes do not reach another attack.
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
    """Counts of the images that passed through source models, and of the gradients that reached the models' inputs."""

    forwards: int = 0
    gradients: int = 0


def surrogate(model: nn.Module, passes: Passes) -> nn.Sequential:
    """Return a copy of a model as two modules in sequence: images in 0..1 -> the network's input -> logits (N, labels).

    Images are (N, C, H, W). `model` takes pixels in 0..255. For a classifier, the second module is a copy of its
    network, whose layers have the names of its zoo (`surrogate[1].layer2`). Any other model is copied whole. The passes
    through the copy are added to `passes`. Every image counts, and each view of an image counts too. The gradient of an
    image counts if a backward pass reaches the input of the copy. Passes are not counted if an attack calls the
    network's layers one by one. The weights of a classifier require no gradient.
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
    """A module that turns images (N, C, H, W) in 0..1 into the input of a classifier's network.

    Images are resized and normalised, and their channels are put into the network's order (RGB or BGR). If the
    network's own input range is 0..1, the normalisation is (x - mean) / std. The result is then equal, bit for bit, to
    that of the usual code of users of attack libraries.
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
    """A module that turns images in 0..1 into pixels in 0..255."""

    def forward(self, images: Tensor) -> Tensor:
        return images * 255


# The hooks below are plain functions, so a copy of the network keeps them. If an attack copies the network, passes
# through the copy therefore count too.


def _arrange(network: nn.Module, model: Classifier) -> None:
    """Add a hook to the network that puts its outputs into the order of the study's labels: logits (N, labels)."""

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
        # Libraries expect that all features have a gradient. Weights may require no gradient, so the input must
        # require one. The hook is on a view or copy of the input, because a hook on the input itself would also
        # count other passes.
        seen = seen.view_as(seen) if seen.requires_grad else seen.detach().requires_grad_(True).clone()
        seen.register_hook(reached)  # type: ignore[no-untyped-call]
        return (seen, *given[1:])

    network.register_forward_pre_hook(entered)
