"""Activation functions on a CPU whose value for an image does not depend on the image's place in its batch.

PyTorch computes an elementwise function in vectors of 4 to 32 numbers, and the last numbers of a tensor one by one. For
some functions (sigmoid, SiLU, GELU, Mish, ELU, softplus, powers), these last numbers round differently. The
last numbers belong to the last images of a batch, so an image's result would depend on its place. `whole_vectors`
computes these functions on tensors that are padded to whole vectors.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_STEP = 64
"""PyTorch computes at most 64 numbers together: two vectors of 512 bits that hold numbers of 16 bits."""

_GRAIN = 2**15
"""PyTorch splits a tensor between threads if it has more elements than this number (`at::internal::GRAIN_SIZE`)."""

_PADDING = 0.5
"""The value of the padding. All functions below, and their derivatives, are finite at this value."""

_EXACT_EXPONENTS = (0, 0.5, 1, 2, 3, -1)
"""Exponents for which PyTorch multiplies, divides, or takes a square root: these round equally everywhere."""


@contextlib.contextmanager
def whole_vectors() -> Iterator[None]:
    """A context for forward passes on a CPU, and for their backward passes. On other devices it changes nothing.

    It acts on torch functions that are called in this thread, by networks and by attacks, if the size of the tensor
    makes it necessary.
    """
    if getattr(_here, "mode", None) is not None:
        yield
        return
    _here.mode = _WholeVectors()
    try:
        with _here.mode:
            yield
    finally:
        _here.mode = None


@contextlib.contextmanager
def without_whole_vectors() -> Iterator[None]:
    """A context that switches off `whole_vectors`, because torch.compile would trace it.

    It must be directly inside `whole_vectors`, without another torch function mode between them. If `whole_vectors` is
    not active, it changes nothing.
    """
    mode = getattr(_here, "mode", None)
    if mode is None:
        yield
        return
    mode.__exit__(None, None, None)
    try:
        yield
    finally:
        mode.__enter__()


_here = threading.local()


class _WholeVectors(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        rule = _RULES.get(func)
        if rule is None:
            return func(*args, **(kwargs or {}))
        return rule(func, args, kwargs or {})


def _unary(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Call `func` on its first argument, padded if necessary. An in-place function changes the argument."""
    if not args or not _needs_padding(args[0]):
        return func(*args, **kwargs)
    return _padded(args[0], lambda flat: func(flat, *args[1:], **kwargs))


def _power(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    exponent = args[1] if len(args) > 1 else kwargs.get("exponent")
    if not isinstance(exponent, int | float) or exponent in _EXACT_EXPONENTS:
        return func(*args, **kwargs)
    return _unary(func, args, kwargs)


def _gated(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """GLU: the first half of the channels, times the sigmoid of the second half."""

    def glu(given: Tensor, dim: int = -1) -> Tensor:
        first, second = given.chunk(2, dim)
        gate: Tensor = _unary(torch.sigmoid, (second,), {})
        return first * gate

    return glu(*args, **kwargs) if args and _on_a_cpu(args[0]) else func(*args, **kwargs)


_Rule = Callable[[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]], Any]
_RULES: dict[Any, _Rule] = {
    **dict.fromkeys(
        (
            torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_, torch.special.expit, functional.sigmoid,
            functional.silu, functional.gelu, functional.mish, functional.softplus,
            functional.elu, functional.elu_, functional.celu, functional.celu_, functional.selu, functional.selu_,
            torch.celu, torch.celu_, torch.selu, torch.selu_,
            torch.exp2, torch.exp2_, Tensor.exp2, Tensor.exp2_, torch.special.exp2,
            torch.atanh, torch.atanh_, Tensor.atanh, Tensor.atanh_,
        ),
        _unary,
    ),
    **dict.fromkeys((torch.pow, Tensor.pow, Tensor.pow_, Tensor.__pow__, Tensor.__ipow__), _power),
    **dict.fromkeys((Tensor.__rpow__,), _unary),
    functional.glu: _gated,
}  # fmt: skip


def _on_a_cpu(given: object) -> bool:
    return isinstance(given, Tensor) and given.device.type == "cpu" and given.is_floating_point()


def _needs_padding(given: object) -> bool:
    """Whether PyTorch computes some numbers of a tensor one by one, or may do so where threads split the tensor."""
    if not _on_a_cpu(given):
        return False
    assert isinstance(given, Tensor), "just seen"
    count, threads = given.numel(), torch.get_num_threads()
    if count != whole_size(count, threads):
        return True
    # A tensor with gaps is computed row by row, so the place of an image matters only if threads can split a row.
    return threads > 1 and count > _GRAIN and _memory_order(given) is None


def whole_size(count: int, threads: int) -> int:
    """Return the smallest number of elements, at least `count`, that `threads` threads compute in whole vectors."""
    used = min(threads, -(-count // _GRAIN)) or 1
    while True:
        step = _STEP * used
        size = -(-count // step) * step
        now = min(threads, -(-size // _GRAIN)) or 1
        if now == used:
            return size
        used = now


def _memory_order(given: Tensor) -> tuple[int, ...] | None:
    """The dimensions from the outermost to the innermost in memory; None if the tensor has gaps or overlaps."""
    if given.is_contiguous():
        return tuple(range(given.dim()))
    strides, sizes = given.stride(), given.shape
    sized = sorted(range(given.dim()), key=lambda dim: (-strides[dim], sizes[dim] == 1))
    expected = 1
    for dim in reversed(sized):
        if given.size(dim) != 1 and given.stride(dim) != expected:
            return None
        expected *= given.size(dim)
    return tuple(sized)


def _padded(given: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply an elementwise function to a padded copy of `given`. An in-place function changes `given` too."""
    order = _memory_order(given) or tuple(range(given.dim()))
    shape = [given.size(dim) for dim in order]
    count = math.prod(shape)
    extra = whole_size(count, torch.get_num_threads()) - count
    copy = torch.cat([given.permute(order).reshape(-1), given.new_full((extra,), _PADDING)])
    result = function(copy)
    back = result[:count].view(shape).permute([order.index(dim) for dim in range(given.dim())])
    if result is copy:
        given.copy_(back)
        return given
    return back
