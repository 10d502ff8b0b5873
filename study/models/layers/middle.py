"""The layer at which a method begins to change a network: the user's or the authors' choice, or the middle layer."""

from __future__ import annotations

from torch import nn

from study.errors import StudyError
from study.models.layers.catalogue import layers_of
from study.models.layers.named import layer


def middle_layer(model: nn.Module, method: str, name: str | None = None) -> str:
    """Return `name`, or the name of a default layer if `name` is None.

    The default is the layer that the authors of `method` chose for this network. If they chose none, the default is the
    middle layer. `model` is a classifier or a network. Raises StudyError if `model` has no layer `name`, or if the
    default is the middle layer and the network's stages are not known.
    """
    if name is not None:
        layer(model, name)
        return name
    layers = layers_of(model)
    try:
        return layers.of_paper(method)
    except StudyError:
        return layers.middle
