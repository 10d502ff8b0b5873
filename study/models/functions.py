"""Replace functions of torch that networks call, such as `relu`, in modules like nn.ReLU and in any `forward`."""

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
"""A function of torch that the network calls."""

Replacement = Callable[..., Any]
"""A function that runs in place of `call`, as `replacement(call, *arguments)`, and returns the result for the network.

It must treat each row of the batch independently."""


@contextmanager
def changed_functions(
    model: nn.Module,
    changes: Mapping[str, Replacement],
    *,
    within: Collection[str] | None = None,
    after: str | None = None,
) -> Iterator[None]:
    """Call `changes[name](call, *arguments)` wherever the network calls the function `name` of torch.

    Names are those of `torch.nn.functional` without an underscore at the end. For example, `relu` means nn.ReLU,
    F.relu, torch.relu and relu_. (nn.ReLU6 calls `hardtanh`.) A call is replaced only if it happens inside the layers
    `within` (None: anywhere in the network). If `after` is given, calls are replaced only after the layer `after` has
    run in the same forward pass.

    A replacement gets the arguments without `inplace`. If the original call works in place, the replacement's result is
    written to the tensor that the original call would change. Some batch norms have a built-in activation: its calls
    are replaced too, whether the norm is folded or not.

    The network runs without torch.compile. At the end of the context, also after an exception, the network has its
    former hooks and `forward` methods. Raises StudyError if a layer does not exist. Raises StudyError in a forward pass
    if a layer does not run, or if the network calls none of the functions.
    """
    network = network_of(model)
    # A call inside two nested modules would be replaced twice, so only the outermost modules are intercepted.
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

    Calls that `handle` makes are not passed to `handle` again. Calls inside functions of torch, such as
    `multi_head_attention_forward`, are not intercepted. Only the Python thread that runs the module is affected.
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
    """The state of one forward pass.

    `active` says whether calls are replaced at present. `calls` is the number of replaced calls so far.
    """

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
