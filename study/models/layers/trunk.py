"""The trunk of a network: its blocks, activations and max-poolings, in order."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from study.errors import StudyError
from study.models.layers.catalogue import layers_of
from study.models.layers.named import network_of


def trunk_of(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the blocks, activations and max-poolings at a network's top level, in the network's order.

    Modules inside a container (`nn.Sequential`, `nn.ModuleList`) also belong to the top level, such as the activations
    and poolings of a VGG. A single convolution, batch norm or linear layer is left out. Raises StudyError if the top
    level has no block, activation or max-pooling.
    """
    network, layers = network_of(model), layers_of(model)
    activations = {one.name for one in layers.activations}
    found = tuple(
        name
        for name, one in _units(network, "")
        if name in activations
        or isinstance(one, nn.MaxPool2d)
        or any(inner.startswith(f"{name}.") for inner in layers.weighted)
    )
    if not found:
        raise StudyError(
            f"the blocks of this {type(network).__name__} are not known",
            accepted="networks whose top level consists of blocks, activations and poolings",
            todo="choose another network",
        )
    return found


def _units(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from _units(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child
