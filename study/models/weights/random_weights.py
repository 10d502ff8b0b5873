"""Random weights that are equal on every CPU.

PyTorch's own draws differ: vectorised code draws normal numbers in another order than plain code, and rounds them
differently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from study.reproducibility.rng import draws, normal_quantiles

_ATEN = torch.ops.aten


class ReproducibleDraws(TorchDispatchMode):
    """A context in which draws on the CPU depend only on `seed` and the number of the draw, with exact arithmetic.

    Uniform draws have 32 bits; normal draws are 65,536 equally probable quantiles. The inverse error function, which
    truncated normal draws use, comes from the same quantiles. Draws from other distributions, and from a network's own
    generator, stay PyTorch's.
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
        values = fill(tensor.numel(), key, *numbers, **{name.rstrip("_"): value for name, value in bounds.items()})
        return tensor.copy_(torch.from_numpy(values).view(tensor.shape))


_Fill = Callable[..., NDArray[np.float64]]


def _uniform(count: int, key: tuple[object, ...], *numbers: float, **given: float) -> NDArray[np.float64]:
    low, high = (*numbers, *(0.0, 1.0)[len(numbers) :])
    low, high = given.get("from", low), given.get("to", high)
    words = draws(-(-count // 2), *key).astype("<u8", copy=False).view("<u4")[:count]
    drawn: NDArray[np.float64] = low + (words + 0.5) * 2.0**-32 * (high - low)
    return drawn


def _normal(count: int, key: tuple[object, ...], *numbers: float, **given: float) -> NDArray[np.float64]:
    mean, std = (*numbers, *(0.0, 1.0)[len(numbers) :])
    mean, std = given.get("mean", mean), given.get("std", std)
    places = draws(-(-count // 4), *key).astype("<u8", copy=False).view("<u2")[:count]
    drawn: NDArray[np.float64] = mean + std * normal_quantiles()[places]
    return drawn


def _inverse_erf(tensor: Tensor) -> Tensor:
    """Linear interpolation in the table of quantiles; -1 and 1 give its first and last quantile."""
    quantiles = normal_quantiles()
    last = len(quantiles) - 1
    place = np.clip((tensor.double().numpy() + 1) / 2 * (last + 1) - 0.5, 0, last)
    below = np.minimum(np.floor(place).astype(np.int64), last - 1)
    between = quantiles[below] + (place - below) * (quantiles[below + 1] - quantiles[below])
    return torch.from_numpy(between * np.sqrt(0.5)).to(tensor.dtype)


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
