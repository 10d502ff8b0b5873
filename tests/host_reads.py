"""Finds what makes the host wait for a device, without a device: tensors on `meta` stand for those of a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = "meta"

_SIZED_BY_VALUES = {
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim",
    "aten::unique_consecutive", "aten::equal", "aten::is_nonzero", "aten::bincount", "aten::repeat_interleave",
    "aten::_linalg_check_errors",
}  # fmt: skip
"""Operations that the host must know the numbers for."""


class HostReadError(AssertionError):
    """Something stops the host until the device has done its work."""


@contextlib.contextmanager
def refused() -> Iterator[None]:
    """Raise HostReadError at the first operation in the `with` block for which the host would wait."""
    with _Calls(), _Operations():
        yield


class _Operations(TorchDispatchMode):
    """Sees what reaches a kernel."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        there = [one for one in tensors if one.device.type == DEVICE]
        here = [one for one in tensors if one.device.type != DEVICE and one.dim()]
        if name in _SIZED_BY_VALUES and there:
            raise HostReadError(f"{name} reads numbers of the device")
        if name in {"aten::_to_copy", "aten::copy_"}:
            self._copy(name, args, kwargs)
        elif there and here:
            raise HostReadError(f"{name} mixes tensors of the host and of the device")
        if name.startswith("aten::index") and there:
            indices = [one for one in tree_leaves(args[1:]) if isinstance(one, Tensor)]
            if any(one.dtype == torch.bool for one in indices):
                raise HostReadError(f"{name} by a mask: the host must know how many")
        return func(*args, **kwargs)

    @staticmethod
    def _copy(name: str, args: Any, kwargs: Any) -> None:
        if name == "aten::copy_":
            to, source = args[0].device, args[1].device
            waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        else:
            source = args[0].device
            to = torch.device(kwargs.get("device") or source)
            waits = not kwargs.get("non_blocking", False)
        if source.type == to.type:
            return
        if source.type == DEVICE:
            raise HostReadError("a copy to the host")
        if waits:
            raise HostReadError("a copy to the device that waits: use study.devices.copies.uploaded")


class _Calls(TorchFunctionMode):
    """Sees what torch does without telling its dispatcher: tensors of lists, and lists that index."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in {torch.tensor, torch.as_tensor} and torch.device(kwargs.get("device") or "cpu").type == DEVICE:
            raise HostReadError("a list becomes a tensor of the device: use study.devices.copies.uploaded")
        if func is Tensor.new_tensor and args[0].device.type == DEVICE:
            raise HostReadError("a list becomes a tensor of the device: use study.devices.copies.uploaded")
        if func in {Tensor.__getitem__, Tensor.__setitem__} and args[0].device.type == DEVICE:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(one, list | tuple | range | np.ndarray) for one in index):
                raise HostReadError("a list as an index: use study.devices.copies.uploaded")
        if func in {Tensor.numpy, Tensor.tolist, Tensor.item} and args[0].device.type == DEVICE:
            raise HostReadError("a copy to the host")
        return func(*args, **kwargs)
