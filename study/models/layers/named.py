"""Find layers by name. The names are those of the network's `named_modules()`, such as `layer2.3`."""

from __future__ import annotations

from torch import nn

from study.errors import StudyError, names
from study.models.classifier import Classifier

ATTENTION_MAP = "attention_map"
"""The name of the layer that `visible_attention` adds to an attention module. Its output is the attention map."""

ATTENTION_QKV = "attention_qkv"
"""The name of the layer that `visible_attention` adds to an attention module to output queries, keys and values.

It is added only if no layer of the network outputs them."""


def network_of(model: nn.Module) -> nn.Module:
    """Return the network to which the names of layers belong: the network of a classifier, or else `model` itself."""
    return model.network if isinstance(model, Classifier) else model


def layer(model: nn.Module, name: str) -> nn.Module:
    """Return the layer `name` of a network or of a classifier's network. Raises StudyError if it does not exist."""
    network = network_of(model)
    try:
        found = network.get_submodule(name)
    except AttributeError:
        found = network
    if found is not network:
        return found
    if name.rpartition(".")[2] in (ATTENTION_MAP, ATTENTION_QKV):
        raise StudyError(
            f"the layer '{name}' of this {type(network).__name__} exists only inside `visible_attention`",
            todo="use the layer inside `with visible_attention(network):`",
        )
    raise StudyError(
        f"this {type(network).__name__} has no layer '{name}'",
        accepted=names((known for known, _ in network.named_modules() if known), name),
        todo="correct the name; `study models SPEC --layers MODEL` prints a model's layers",
    )
