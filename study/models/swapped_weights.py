"""Swap the weights of a source model between passes, inside a context."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from study.errors import StudyError
from study.models.layers.named import network_of
from study.models.weights.weight_set import WeightSet


def weight_set_of(name: str, model: nn.Module) -> WeightSet:
    """Return the set of weights of the source model `name`. Raises StudyError if it has none."""
    found = getattr(model, "weight_set", None)
    if not isinstance(found, WeightSet):
        raise StudyError(
            f"the attack draws weights from a set, and '{name}' has no set of weights",
            accepted="a model with `weights: {set: folder/*.safetensors}` and `role: source`",
            todo="leave this source out of the attack's experiments, or give it a set",
        )
    return found


@contextmanager
def swapped(model: nn.Module, weights: WeightSet, choose: Callable[[], Mapping[str, Tensor]]) -> Iterator[None]:
    """Put the weights `choose()` into `model` before each of its forward passes; at the end, put the mean back.

    The backward pass of a forward pass must end before the next forward pass starts, which changes the weights. The
    network may be compiled.
    """
    network = network_of(model)
    handle = model.register_forward_pre_hook(lambda *_: weights.put(network, choose()))
    try:
        yield
    finally:
        handle.remove()
        weights.put(network, weights.mean)
