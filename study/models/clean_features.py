"""Features of clean images at the narrow layers of a network. Attacks mix them into the features of other images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from study.errors import StudyError
from study.models.layer_outputs import Change, changed_outputs, normalised
from study.models.layers.catalogue import layers_of
from study.models.layers.named import layer, network_of


@dataclass(frozen=True)
class CleanFeatures:
    """The outputs of a network's layers for several images.

    `features` has, for each name of a layer, a tuple with one tensor (number of images, …) for each run of the layer in
    a forward pass. `norms` are the names of those layers that a batch norm follows. For these layers, the tensors are
    the outputs of the norm. `linear` are the names of the linear layers.
    """

    features: Mapping[str, tuple[Tensor, ...]]
    norms: frozenset[str]
    linear: frozenset[str]

    def axis_of_channels(self, name: str, features: Tensor) -> int:
        """Return the axis of the channels of a layer's output: 1 in (N, C, H, W) of a convolution, else the last."""
        return 1 if features.ndim == 4 and name not in self.linear else features.ndim - 1

    @contextmanager
    def changed(self, model: nn.Module, change: Change) -> Iterator[None]:
        """Replace the output of each layer in `features` by `change(name of the layer, output)` inside the context."""
        with changed_outputs(model, tuple(self.features), self.norms, change):
            yield


def clean_features(model: nn.Module, images: Tensor, divisor: float) -> CleanFeatures:
    """Return the outputs of the narrow layers for `images`, pixels (P, C, S, S) of P images.

    Narrow layers are linear layers, and convolutions whose output is at most S / `divisor` wide. Raises StudyError if
    the network has no narrow layer.
    """
    layers = layers_of(model)
    widest = images.shape[-1] / divisor
    linear = frozenset(name for name in layers.weighted if isinstance(layer(model, name), nn.Linear))
    held: dict[str, list[Tensor]] = {}

    def keep(name: str, output: Tensor) -> Tensor:
        # A linear layer may have outputs (N, H, W, C), whose last axis is no width.
        if name in linear or output.ndim < 4 or output.shape[-1] <= widest:
            held.setdefault(name, []).append(output.detach().clone())
        return output

    norms = normalised(model, images[:1], layers.weighted)
    with torch.no_grad(), changed_outputs(model, layers.weighted, norms, keep):
        model(images)
    if not held:
        raise StudyError(
            f"this {type(network_of(model)).__name__} has no linear layer, and no convolution with an output of at "
            f"most {widest:g} x {widest:g}",
            accepted="networks of convolutions and linear layers",
            todo="choose a smaller divisor, or another network",
        )
    features = {name: tuple(found) for name, found in held.items()}
    return CleanFeatures(features, norms & held.keys(), linear & held.keys())


def by_channel(values: Tensor, features: Tensor, axis: int) -> Tensor:
    """Return `values` (N, size of `axis`) with the dtype of `features`, reshaped to broadcast along the other axes."""
    shape = [1] * features.ndim
    shape[0], shape[axis] = len(values), features.shape[axis]
    return values.to(features.dtype).view(shape)
