"""Fold batch norms into the convolutions before them: the same function with fewer passes over memory.

In eval mode, a batch norm scales and shifts each channel by constants, which the weights of a convolution can include.
The folded network computes the same function up to rounding. A ResNet becomes a third faster and needs a third less
memory.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Only exact classes count, because a subclass may first transform its weights (standardise them, for example). The sets
# have names and not classes, because the import of timm takes seconds.
_CONVOLUTIONS = {"torch.nn.modules.conv.Conv2d", "timm.layers.conv2d_same.Conv2dSame"}
_NORMS = {"torch.nn.modules.batchnorm.BatchNorm2d"}
_NORMS_WITH_ACTIVATION = {"timm.layers.norm_act.BatchNormAct2d"}


def fold(network: nn.Module, example: Tensor, *, keep: Collection[str] = ()) -> int:
    """Fold each batch norm that directly follows a convolution into this convolution, and return the number of folds.

    The network is changed in place. `example` is an input of the network, (N, 3, S, S) after preprocessing, on the
    network's device and in its dtype. One forward pass of `example` shows the order of modules. A batch norm is folded
    if nothing else reads the convolution's output, and if the pass calls both modules exactly once. Neither of the two
    modules may share parameters, have forward hooks, have two names in the network, or be named in `keep`.

    Folded convolutions have new parameters with the same dtype, device and memory format, which require no gradient.
    All modules keep their names. A batch norm becomes an `nn.Identity`. A batch norm with an activation, as in timm,
    becomes a module that only contains its `drop` and `act`. If a logit of `example` changes by more than 1,000 times
    the dtype's machine epsilon times the range of the logits, the network is restored and 0 is returned.

    Raises ValueError if the network is in training mode, or if its dtype is neither float32 nor float64.
    """
    if network.training:
        raise ValueError("batch norms can only be folded in eval mode")
    if example.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"batch norms can only be folded in float32 or float64, not in {example.dtype}")
    before, pairs = _observe(network, example, keep)
    names = {module: name for name, module in network.named_modules()}
    replaced: list[tuple[str, nn.Module]] = []
    for conv, norm in pairs:
        replaced += [(names[conv], conv), (names[norm], norm)]
        network.set_submodule(names[conv], _folded(conv, norm))
        network.set_submodule(names[norm], _without_norm(norm))
    if not pairs:
        return 0
    with torch.no_grad():
        after = network(example.clone())
    if _close(after, before):
        return len(pairs)
    for name, module in replaced:
        network.set_submodule(name, module)
    return 0


def _observe(
    network: nn.Module, example: Tensor, keep: Collection[str]
) -> tuple[Tensor, list[tuple[nn.Conv2d, nn.BatchNorm2d]]]:
    """Return the logits of `example`, and the pairs of a convolution and a batch norm that can be folded."""
    often = Counter(id(module) for _, module in network.named_modules(remove_duplicate=False))
    shared = Counter(id(parameter) for module in network.modules() for parameter in module._parameters.values())
    foldable = [
        module
        for name, module in network.named_modules()
        if (_is_convolution(module) or _is_norm(module))
        and name not in keep
        and often[id(module)] == 1
        and all(shared[id(parameter)] == 1 for parameter in module.parameters())
        and not (module._forward_hooks or module._forward_pre_hooks or module.training)
    ]
    watch = _Watch()
    with watch.over(foldable), watch, torch.no_grad():
        logits = network(example.clone())
    return logits, watch.pairs()


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that records, in one forward pass, which batch norm reads the output of each convolution.

    It also records whether other operations read the same output.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._calls: Counter[nn.Module] = Counter()
        # Keys are memory addresses, so that views of an output count too. Outputs are kept alive, because the address
        # of a freed output could be used again.
        self._outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}
        self._taken: dict[nn.Conv2d, nn.BatchNorm2d] = {}
        self._elsewhere: set[nn.Module] = set()
        self._inside: nn.Module | None = None

    def pairs(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        return [
            (conv, norm)
            for conv, norm in self._taken.items()
            if self._calls[conv] == 1 and self._calls[norm] == 1 and conv not in self._elsewhere
        ]

    @contextmanager
    def over(self, modules: list[nn.Module]) -> Iterator[None]:
        handles = []
        for module in modules:
            if _is_convolution(module):
                handles.append(module.register_forward_hook(self._convolved))
            else:
                handles.append(module.register_forward_pre_hook(self._entered))
                handles.append(module.register_forward_hook(self._left))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _convolved(self, module: Any, _: Any, output: Tensor) -> None:
        self._calls[module] += 1
        self._outputs[_address(output)] = (module, output)

    def _entered(self, module: Any, given: tuple[Tensor, ...]) -> None:
        self._calls[module] += 1
        conv, output = self._outputs.get(_address(given[0]), (None, None))
        if conv is not None and output is given[0]:
            if self._taken.setdefault(conv, module) is not module:
                self._elsewhere.add(conv)
            self._inside = conv

    def _left(self, *_: Any) -> None:
        self._inside = None

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and (entry := self._outputs.get(_address(leaf))):
                conv = entry[0]
                if conv is not self._inside:
                    self._elsewhere.add(conv)
        return func(*args, **kwargs or {})


class _AfterNorm(nn.Module):
    """The dropout and the activation of a batch norm with a built-in activation, which remain when it is folded."""

    def __init__(self, drop: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.drop, self.act = drop, act

    def forward(self, x: Tensor) -> Tensor:
        activated: Tensor = self.act(self.drop(x))
        return activated


def _without_norm(norm: nn.Module) -> nn.Module:
    if _class(norm) in _NORMS_WITH_ACTIVATION:
        return _AfterNorm(norm.get_submodule("drop"), norm.get_submodule("act")).eval()
    return nn.Identity().eval()


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return one convolution in place of `conv` and `norm`. Its weights are computed in float64 and rounded once."""
    plain = nn.BatchNorm2d(norm.num_features, eps=norm.eps).eval()
    plain.load_state_dict(norm.state_dict(), strict=False)
    exact = fuse_conv_bn_eval(copy.deepcopy(conv).double(), plain.to(conv.weight.device).double())
    fused = copy.deepcopy(conv)
    assert exact.bias is not None
    weight = torch.empty_like(conv.weight, memory_format=torch.preserve_format).copy_(exact.weight)
    fused.weight = nn.Parameter(weight, requires_grad=False)
    fused.bias = nn.Parameter(exact.bias.to(weight.dtype), requires_grad=False)
    return fused


def _close(after: Tensor, before: Tensor) -> bool:
    spread = before.max() - before.min()
    return bool((after - before).abs().max() <= 1000 * torch.finfo(before.dtype).eps * spread)


def _is_convolution(module: nn.Module) -> bool:
    return _class(module) in _CONVOLUTIONS


def _is_norm(module: nn.Module) -> bool:
    """Return whether the module is a batch norm of a known class with a scale, a shift and running statistics."""
    named = _class(module) in _NORMS | _NORMS_WITH_ACTIVATION
    return named and module.running_mean is not None and module.weight is not None


def _class(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
