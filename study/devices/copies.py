"""Copies between the host and a device, for which the host does not wait until it needs the numbers.

A plain `tensor.to("cuda")`, `tensor.cpu()` or `torch.tensor(list, device="cuda")` stops the host until the device has
done all its work. An attack that does so in each step never gets ahead of the device, which then idles between kernels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def is_host(device: str | torch.device) -> bool:
    """Whether tensors of this device are in the host's memory."""
    return str(device).partition(":")[0] == "cpu"


def uploaded(values: NDArray[Any], device: str | torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return the numbers as a tensor on `device`, with `dtype` if it is given.

    On a CPU it may share their memory. A GPU gets them from pinned memory, in the order of its stream.
    """
    import torch

    # torch warns of arrays that cannot be written, such as those of an object store.
    held = torch.from_numpy(np.require(values, requirements="W"))
    return moved(held if dtype is None else held.to(dtype), device)


def moved(tensor: Tensor, device: str | torch.device) -> Tensor:
    """Return a tensor of the host on `device`, as `uploaded` does."""
    import torch

    if is_host(device):
        return tensor
    pinned = tensor.pin_memory() if torch.cuda.is_available() else tensor
    return pinned.to(device, non_blocking=True)


class Download:
    """Tensors of one device on their way to the host. Make one as soon as they are computed, and read it later."""

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
        """Wait until they have come, and return them as numpy arrays, in C order."""
        if self._event is not None:
            self._event.synchronize()
        return [np.ascontiguousarray(one.cpu().numpy()) for one in self._host]
