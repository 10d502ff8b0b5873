"""Change the functions that layers call (`relu`, `max_pool2d`), whether a module calls them or a `forward` itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from study.errors import StudyError, names
from study.models.features import hooked
from study.models.layers.named import layer, network_of

Call = Callable[..., Any]
"""A function of torch, as the network would have called it."""

Replacement = Callable[..., Any]
"""Called as `replacement(call, *arguments)`; returns what the network goes on with, row by row of the batch."""


@contextmanager
def changed_functions(
    model: nn.Module,
    changes: Mapping[str, Replacement],
    *,
    within: Collection[str] | None = None,
    after: str | None = None,
) -> Iterator[None]:
    """Call `changes[name](call, *arguments)` wherever the network calls the function `name` of torch.

    Names are those of `torch.nn.functional` without an underscore at the end: `relu` stands for nn.ReLU, F.relu,
    torch.relu and relu_. nn.ReLU6 calls `hardtanh`. Only calls inside the layers `within` (None: the whole network)
    and, in each pass, after the layer `after` has run are changed. A replacement gets the arguments without `inplace`;
    if the network works in place, the result is written to the tensor that it would have changed. Batch norms with an
    activation, folded or not, call the activation like all others.

    The network runs without torch.compile. At the end, also after an exception, its hooks and `forward` methods are
    those of before. Raises StudyError for a layer that does not exist or does not run; and in the pass, if none of the
    functions is called.
    """
    network = network_of(model)
    # A module inside another of these would change each call twice.
    outermost = [name for name in within or () if not any(name.startswith(f"{other}.") for other in within or ())]
    wanted = [network] if within is None else [layer(model, name) for name in outermost]
    state = _State(active=after is None)

    def reset(*_: Any) -> None:
        state.active, state.calls = after is None, 0

    def activate(*_: Any) -> None:
        state.active = True

    def check(*_: Any) -> None:
        if not state.calls:
            place = f" after '{after}'" if after else ""
            raise StudyError(
                f"this {type(network).__name__} calls none of {names(changes)}{place}",
                accepted="functions that the network calls, by their names in torch.nn.functional",
                todo="name another function or place",
            )

    def change(call: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        written = getattr(call, "__name__", "")
        name = written.removesuffix("_")
        if not state.active or name not in changes:
            return call(*arguments, **options)
        state.calls += 1
        in_place = bool(options.pop("inplace", False)) or written != name
        if not in_place:
            return changes[name](call, *arguments, **options)
        plain = call if written == name else getattr(functional, name, None) or getattr(torch, name)
        place, *rest = arguments
        return place.copy_(changes[name](plain, place.clone(), *rest, **options))

    with hooked(model, [*(within or ()), *([after] if after else [])]) as hooks:
        hooks.enter_context(network.register_forward_pre_hook(reset))
        if after:
            hooks.enter_context(layer(model, after).register_forward_hook(activate))
        hooks.enter_context(network.register_forward_hook(check))
        for module in wanted:
            hooks.enter_context(intercepted(module, change))
        yield


@contextmanager
def intercepted(module: nn.Module, handle: Callable[[Call, tuple[Any, ...], dict[str, Any]], Any]) -> Iterator[None]:
    """Pass every call of a torch function inside the module's `forward` to `handle(call, arguments, options)`.

    Calls that `handle` makes are not passed to it again. Calls inside functions of torch, such as those of
    `multi_head_attention_forward`, are not seen. Python's thread that runs the module is the only one affected.
    """
    original, own = module.forward, vars(module).get("forward")

    def forward(*arguments: Any, **options: Any) -> Any:
        with _Interception(handle):
            return original(*arguments, **options)

    vars(module)["forward"] = forward
    try:
        yield
    finally:
        if own is None:
            del vars(module)["forward"]
        else:
            vars(module)["forward"] = own


class _State:
    """Whether calls are changed in the present pass, and how many were."""

    def __init__(self, *, active: bool) -> None:
        self.active = active
        self.calls = 0


class _Interception(TorchFunctionMode):
    def __init__(self, handle: Callable[[Call, tuple[Any, ...], dict[str, Any]], Any]) -> None:
        super().__init__()
        self._handle = handle

    def __torch_function__(
        self, func: Call, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self._handle(func, args, dict(kwargs or {}))
