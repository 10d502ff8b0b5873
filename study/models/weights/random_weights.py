"""Random weights that are equal on every CPU.

PyTorch's own random numbers differ between CPUs. Its vectorised code draws normal numbers in another order than its
plain code, and rounds them differently.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from study.reproducibility.rng import draws, normal_quantiles

_ATEN = torch.ops.aten
_PART = 2**15
"""The number of values that are computed together. They and their intermediate results fit into a CPU's cache."""


class ReproducibleDraws(TorchDispatchMode):
    """A context in which random numbers on the CPU depend only on `seed` and the index of the draw.

    The arithmetic is exact. Uniform draws have 32 random bits. A normal draw is one of 65,536 equally probable
    quantiles. The inverse error function, which truncated normal draws use, is computed from the same quantiles.
    All other draws come from PyTorch: draws from other distributions, and draws from a generator that the network's
    code passes.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seed = seed
        self._count = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        fill = _FILLED.get(func)
        if given.get("generator") is None:
            if fill is not None and args[0].device.type == "cpu":
                return self._fill(args[0], fill, args[1:], given)
            if func in _MADE and torch.device(given.get("device") or "cpu").type == "cpu":
                empty, fill = _MADE[func]
                return self._fill(empty(*args, **given), fill, (), {})
        if func in _INVERSE_ERF and args[0].device.type == "cpu":
            return _INVERSE_ERF[func](args[0])
        return func(*args, **given)

    def _fill(self, tensor: Tensor, fill: _Fill, numbers: Sequence[Any], given: Mapping[str, Any]) -> Tensor:
        key = ("weights", self._seed, self._count)
        self._count += 1
        bounds = {name: given[name] for name in ("mean", "std", "from", "to", "from_") if name in given}
        # For a float32 tensor, `fill` rounds each part. For other types, PyTorch rounds all values at the end.
        values = np.empty(tensor.numel(), np.float32 if tensor.dtype == torch.float32 else np.float64)
        fill(values, key, *numbers, **{name.rstrip("_"): value for name, value in bounds.items()})
        return tensor.copy_(torch.from_numpy(values).view(tensor.shape))


_Fill = Callable[..., None]


def _parts(count: int) -> Iterator[slice]:
    return (slice(first, min(first + _PART, count)) for first in range(0, count, _PART))


def _uniform(values: NDArray[Any], key: tuple[object, ...], *numbers: float, **given: float) -> None:
    low, high = (*numbers, *(0.0, 1.0)[len(numbers) :])
    low, high = given.get("from", low), given.get("to", high)
    words = draws(-(-len(values) // 2), *key).astype("<u8", copy=False).view("<u4")
    for part in _parts(len(values)):
        drawn = words[part] + 0.5
        drawn *= 2.0**-32
        drawn *= high - low
        drawn += low
        values[part] = drawn


def _normal(values: NDArray[Any], key: tuple[object, ...], *numbers: float, **given: float) -> None:
    mean, std = (*numbers, *(0.0, 1.0)[len(numbers) :])
    mean, std = given.get("mean", mean), given.get("std", std)
    places = draws(-(-len(values) // 4), *key).astype("<u8", copy=False).view("<u2")
    drawn = (mean + std * normal_quantiles()).astype(values.dtype)
    for part in _parts(len(values)):
        np.take(drawn, places[part], out=values[part], mode="clip")


def _inverse_erf(tensor: Tensor) -> Tensor:
    """Return the inverse error function of `tensor`, by linear interpolation in the table of normal quantiles.

    For -1 and 1, the result comes from the table's first and last quantile.
    """
    quantiles, steps = normal_quantiles(), _steps()
    last = len(quantiles) - 1
    values = tensor.double().numpy().copy(order="K")
    flat = values.ravel(order="K")  # a view for any strides
    for part in _parts(flat.size):
        place = flat[part]
        place += 1
        place /= 2
        place *= last + 1
        place -= 0.5
        np.clip(place, 0, last, out=place)
        below = np.minimum(place.astype(np.int64), last - 1)
        place -= below
        place *= steps[below]
        place += quantiles[below]
        place *= np.sqrt(0.5)
    return torch.from_numpy(values).to(tensor.dtype)


@functools.cache
def _steps() -> NDArray[np.float64]:
    """Return the difference between each normal quantile and the next quantile."""
    return np.diff(normal_quantiles())


_FILLED: dict[Any, _Fill] = {_ATEN.uniform_.default: _uniform, _ATEN.normal_.default: _normal}
_MADE: dict[Any, tuple[Callable[..., Tensor], _Fill]] = {
    _ATEN.rand.default: (torch.empty, _uniform),
    _ATEN.randn.default: (torch.empty, _normal),
    _ATEN.rand_like.default: (torch.empty_like, _uniform),
    _ATEN.randn_like.default: (torch.empty_like, _normal),
}
_INVERSE_ERF: dict[Any, Callable[[Tensor], Tensor]] = {
    _ATEN.erfinv.default: _inverse_erf,
    _ATEN.erfinv_.default: lambda tensor: tensor.copy_(_inverse_erf(tensor)),
}
