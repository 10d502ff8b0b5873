"""Find the layers of a network by their roles: stages, residual branches, attention, MLPs, patches, last layers."""

from study.models.layers.catalogue import Layers, layers_of
from study.models.layers.named import layer, network_of

__all__ = ["Layers", "layer", "layers_of", "network_of"]
