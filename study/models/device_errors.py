"""Classify an error of a device: either its memory ran out, or the device failed.

PyTorch, cuDNN and cuBLAS have many messages for each of these two cases. A table of patterns for these messages
decides. After a device failure, every further call of the process to the device fails too, and only a new process
helps. If memory ran out, a forward pass of fewer images may fit.
"""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

from study.errors import StudyError, first_line

Fault = Literal["memory", "device", "unclear"]
"""The cause of an error: too little memory, or a failed device.

`unclear` means that the message occurs in both cases. Then a forward pass of fewer images shows the cause."""

Value = TypeVar("Value")

_LIBRARY = r"\bCU(BLAS|DNN|FFT|SOLVER|SPARSE|RAND)_"

_WORDS: tuple[tuple[Fault | None, re.Pattern[str]], ...] = (
    ("memory", re.compile(r"\b(CUDA|HIP|XPU|MPS backend) (driver )?(error: )?out of memory")),
    ("memory", re.compile(r"Triton Error \[\w+\]: out of memory|CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation")),
    ("memory", re.compile(_LIBRARY + r"\w*ALLOC(ATION)?_FAILED")),
    ("memory", re.compile(r"DefaultCPUAllocator: (can't|not enough)")),
    # PyTorch's allocator asks NVML which processes use the memory, and it asks only if no memory is left.
    ("memory", re.compile(r"NVML_SUCCESS == r.*CUDACachingAllocator")),
    ("unclear", re.compile(r"unable to find an engine to execute|Unable to find a valid cuDNN algorithm")),
    ("unclear", re.compile(r"No valid execution plans built|operation failed due to a previous error during capture")),
    ("unclear", re.compile(_LIBRARY + r"\w*NOT_INITIALIZED")),
    # These messages mean that the call itself was wrong. The process and the device continue to work.
    (None, re.compile(r"(CUDA|HIP) error: (invalid (argument|configuration|resource handle)|too many resources)")),
    (None, re.compile(r"(CUDA|HIP) error: operation not permitted when stream is capturing")),
    (None, re.compile(_LIBRARY + r"\w*(INVALID_VALUE|BAD_PARAM|NOT_SUPPORTED|INVALID_SIZE|INVALID_TYPE)")),
    ("device", re.compile(r"\b(CUDA|HIP) (driver )?error: |Triton Error \[\w+\]: |CUDA unknown error")),
    ("device", re.compile(_LIBRARY + r"\w*(INTERNAL|EXEC|MAPPING_ERROR|ARCH_MISMATCH|LAUNCH_FAILURE|SUBLIBRARY)")),
    ("device", re.compile(r"unspecified launch failure|illegal memory access|device-side assert|uncorrectable ECC")),
    ("device", re.compile(r"No CUDA GPUs are available|no CUDA-capable device")),
    ("device", re.compile(r"Found no NVIDIA driver|NVIDIA driver on your system is too old|cudaGetDeviceCount\(\)")),
)  # fmt: skip
"""Patterns for messages, each with the fault that the message reports. The first pattern that matches decides.

None: neither the memory nor the device is the cause."""

_CLASSES: dict[str, Fault] = {
    "OutOfMemoryError": "memory",
    "MemoryError": "memory",
    "AcceleratorError": "device",
    "CudaError": "device",
    "DeferredCudaCallError": "device",
}
"""Faults by the class name of an error or of a base class. They count only if no pattern matches the message."""


class DeviceError(RuntimeError):
    """The device failed, even with the smallest possible pass."""


@dataclass(frozen=True)
class OutOfMemory:
    """The result of work for which memory ran out.

    `cause` is the error in one line. `certain` is false if the cause may also be a broken device.
    """

    cause: str
    certain: bool = True


def fault(error: BaseException) -> Fault | None:
    """Return the fault that `error` or one of its causes reports; None if no fault of a device is reported."""
    found = {_fault(one) for one in _chain(error)}
    order: tuple[Fault, ...] = ("device", "memory", "unclear")
    return next((one for one in order if one in found), None)


def device_failed(error: BaseException) -> bool:
    """Return whether only another process or another device can do the work that raised `error`."""
    return fault(error) in ("device", "unclear")


def origin(error: BaseException) -> BaseException:
    """Return the error that reports a device failure: `error` or one of its causes. If none does, return `error`."""
    return next((one for one in _chain(error) if _fault(one) in ("device", "unclear")), error)


def attempt(work: Callable[[], Value]) -> Value | OutOfMemory:
    """Return the result of `work()`. If memory runs out, free the memory that `work` used, and return OutOfMemory.

    All other errors of `work` are raised. If freeing the memory shows that the device is broken, the device's error is
    raised.
    """
    try:
        return work()
    except Exception as error:
        found = fault(error)
        if found not in ("memory", "unclear"):
            raise
        shortage = OutOfMemory(f"{type(error).__name__}: {first_line(error)}", found == "memory")
    # Within the `except` block, the traceback would keep the tensors of the failed pass alive.
    _free_memory()
    return shortage


def halved(size: int, shortage: OutOfMemory, what: str = "a single image") -> int:
    """Return half of `size`, a number of images for which the memory was too small.

    If `size` is 1, raises StudyError, or DeviceError if it is not certain that memory ran out. `what` names the work in
    the message.
    """
    if size > 1:
        return size // 2
    raise too_little(
        shortage,
        f"the device has too little memory for {what}",
        todo="use a device with more memory, fewer actors on it, fewer models per actor (run.models_per_actor), "
        "smaller ensembles, or a smaller images.size",
    )


def too_little(shortage: OutOfMemory, what: str, todo: str) -> Exception:
    """Return the error to raise if memory ran out and the work cannot be divided into smaller forward passes.

    This is a StudyError with the texts `what` and `todo`, or DeviceError if it is not certain that memory ran out.
    """
    if not shortage.certain:
        return DeviceError(shortage.cause)
    return StudyError(f"{what} ({shortage.cause})", todo=todo)


def _fault(error: BaseException) -> Fault | None:
    names = [base.__name__ for base in type(error).__mro__]
    by_class = next((_CLASSES[name] for name in names if name in _CLASSES), None)
    if isinstance(error, DeviceError):
        return "device"
    if by_class is None and not isinstance(error, RuntimeError):
        return None
    text = str(error)
    for found, pattern in _WORDS:
        if pattern.search(text):
            return found
    return by_class


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield `error`, then its cause, then the cause of that cause, and so on, as a traceback shows these errors."""
    seen: set[int] = set()
    now: BaseException | None = error
    while now is not None and id(now) not in seen:
        seen.add(id(now))
        yield now
        now = now.__cause__ or (None if now.__suppress_context__ else now.__context__)


def _free_memory() -> None:
    """Free the memory of unreferenced objects. If a GPU's context is broken, the GPU's error is raised."""
    torch = sys.modules.get("torch")
    # The objects of a failed pass are in the young generations of the garbage collector. For a GPU, whose memory is
    # scarcer, the oldest generation is collected as well.
    on_gpu = torch is not None and torch.cuda.is_initialized()
    gc.collect(2 if on_gpu else 1)
    if torch is not None and on_gpu:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
