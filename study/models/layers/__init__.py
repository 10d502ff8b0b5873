"""Find the layers of a network by their role: stages, residual branches, attention, MLPs, patches, head."""

from study.models.layers.catalogue import Layers, layers_of
from study.models.layers.named import layer, network_of

__all__ = ["Layers", "layer", "layers_of", "network_of"]
