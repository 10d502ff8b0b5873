"""Asynchronous copies between the host and a device: the host waits only when it needs the numbers.

A plain `tensor.to("cuda")`, `tensor.cpu()` or `torch.tensor(list, device="cuda")` stops the host until the device has
finished all queued work. If an attack does this in each step, the host cannot queue kernels in advance, and the device
idles between kernels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def is_host(device: str | torch.device) -> bool:
    """Return whether tensors on this device are in the host's memory."""
    return str(device).partition(":")[0] == "cpu"


def uploaded(values: NDArray[Any], device: str | torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return the array `values` as a tensor on `device`, with `dtype` if it is given.

    On a CPU, the tensor may share the array's memory. For a GPU, the copy from pinned memory is asynchronous, in the
    order of the current CUDA stream.
    """
    import torch

    # torch warns about read-only arrays, such as arrays from Ray's object store.
    held = torch.from_numpy(np.require(values, requirements="W"))
    return moved(held if dtype is None else held.to(dtype), device)


def moved(tensor: Tensor, device: str | torch.device) -> Tensor:
    """Copy `tensor` from the host to `device`, and return the copy.

    If `device` is a CPU, `tensor` itself is returned. For a GPU, the copy is asynchronous, as in `uploaded`.
    """
    import torch

    if is_host(device):
        return tensor
    pinned = tensor.pin_memory() if torch.cuda.is_available() else tensor
    return pinned.to(device, non_blocking=True)


class Download:
    """An asynchronous copy of tensors from one device to the host.

    Create a `Download` as soon as the tensors are computed, and call `arrays` later, when the values are needed.
    """

    def __init__(self, *tensors: Tensor) -> None:
        import torch

        self._host = tensors
        self._event: torch.cuda.Event | None = None
        if tensors and tensors[0].is_cuda and torch.cuda.is_available():
            self._host = tuple(torch.empty(one.shape, dtype=one.dtype, pin_memory=True) for one in tensors)
            for here, there in zip(self._host, tensors, strict=True):
                here.copy_(there.contiguous(), non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(tensors[0].device))

    def arrays(self) -> list[NDArray[Any]]:
        """Wait for the end of the copy, and return the tensors as numpy arrays in C order."""
        if self._event is not None:
            self._event.synchronize()
        return [np.ascontiguousarray(one.cpu().numpy()) for one in self._host]
