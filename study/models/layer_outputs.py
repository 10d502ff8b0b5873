"""Change the outputs of convolutions and linear layers.

If a batch norm follows a layer, the output of the norm is changed instead, whether the norm is folded or not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from study.errors import StudyError
from study.models.features import hooked
from study.models.functions import Call, intercepted
from study.models.layers.named import layer, network_of

Change = Callable[[str, Tensor], Tensor]
"""A function of a layer's name and output that returns a tensor of the same shape.

It must treat each row of the batch independently."""


def normalised(model: nn.Module, images: Tensor, layers: Collection[str]) -> frozenset[str]:
    """Return the names of those `layers` whose output is the input of a batch norm in a forward pass of `images`.

    Layers whose batch norm is folded are left out.
    """
    found: set[str] = set()
    outputs: dict[int, tuple[str, Tensor]] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            outputs[id(output)] = (name, output)

        return hook

    def handle(call: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if getattr(call, "__name__", "") == "batch_norm" and id(arguments[0]) in outputs:
            found.add(outputs[id(arguments[0])][0])
        return call(*arguments, **options)

    with torch.no_grad(), ExitStack() as stack:
        for name in layers:
            stack.enter_context(layer(model, name).register_forward_hook(note(name)))
        stack.enter_context(intercepted(network_of(model), handle))
        model(images)
    return frozenset(found)


@contextmanager
def changed_outputs(
    model: nn.Module, layers: Collection[str], norms: Collection[str], change: Change
) -> Iterator[None]:
    """Replace the output of each of `layers` by `change(name, output)` inside the context.

    `norms` are the names of the layers that a batch norm follows, as `normalised` returns them. For such a layer,
    `change` gets the output of the norm, which is the same whether the norm is folded or not. Raises StudyError in a
    forward pass if a layer does not run, or if another operation runs between a layer and its norm.
    """
    waiting: dict[int, tuple[str, Tensor]] = {}

    def begin(*_: Any) -> None:
        waiting.clear()

    def check(*_: Any) -> None:
        if waiting:
            missed = next(iter(waiting.values()))[0]
            raise StudyError(
                f"another operation runs between the layer '{missed}' and its batch norm",
                todo="set `numerics: {fold: true}`, or keep only one of the components that change the network",
            )

    def after(name: str) -> Callable[..., Any]:
        def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor | None:
            if name in norms:
                waiting[id(output)] = (name, output)
                return None
            return change(name, output)

        return hook

    def handle(call: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        found = call(*arguments, **options)
        if getattr(call, "__name__", "") != "batch_norm" or id(arguments[0]) not in waiting:
            return found
        name, _ = waiting.pop(id(arguments[0]))
        return change(name, found)

    network = network_of(model)
    with hooked(model, layers) as hooks:
        hooks.enter_context(network.register_forward_pre_hook(begin))
        hooks.enter_context(network.register_forward_hook(check))
        for name in layers:
            hooks.enter_context(layer(model, name).register_forward_hook(after(name)))
        if norms:
            hooks.enter_context(intercepted(network, handle))
        yield
