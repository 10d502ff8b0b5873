"""Swap the weights of a source model between forward passes, inside a context."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from study.errors import StudyError
from study.models.layers.named import network_of
from study.models.weights.weight_set import WeightSet


def weight_set_of(name: str, model: nn.Module) -> WeightSet:
    """Return the set of weights of the source model `name`. Raises StudyError if the model has no such set."""
    found = getattr(model, "weight_set", None)
    if not isinstance(found, WeightSet):
        raise StudyError(
            f"the attack draws weights from a set, and '{name}' has no set of weights",
            accepted="a model with `weights: {set: folder/*.safetensors}` and `role: source`",
            todo="leave this source out of the attack's experiments, or give this source a set of weights",
        )
    return found


@contextmanager
def swapped(model: nn.Module, weights: WeightSet, choose: Callable[[], Mapping[str, Tensor]]) -> Iterator[None]:
    """Load the weights `choose()` into `model` before each of its forward passes.

    At the end of the context, the mean weights are loaded again. A backward pass must end before the next forward pass
    starts, because the next forward pass changes the weights. The network may be compiled.
    """
    network = network_of(model)
    handle = model.register_forward_pre_hook(lambda *_: weights.put(network, choose()))
    try:
        yield
    finally:
        handle.remove()
        weights.put(network, weights.mean)
