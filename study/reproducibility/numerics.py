"""What fixes a float result on one kind of processor: batch shape, thread count, kernels, precision."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from study.spec.frozen import Frozen

if TYPE_CHECKING:
    import torch

Layout = Literal["channels-last", "contiguous"]
Precision = Literal["float32", "tf32", "bfloat16"]

_STEP, _MOST, _MOST_ELSEWHERE = 4, 16, 256
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


class Numerics(Frozen):
    """What changes the rounding of a float, and so a pixel in 100,000: recorded with every row.

    - `batch`: images in one pass; the last pass is padded to it. On a CPU it is brought to 4, 8, 12 or 16;
    - `room`: images in one pass where an attack takes several views of each: whole batches of views, halved where
      memory runs out;
    - `fold`: networks rewritten where that is exact to rounding: batch norms folded into their convolutions, and
      on a CPU some convolutions computed another way (`study.models.rewrites.cpu`);
    - `layout`: of images and networks in memory;
    - `precision`: of gradients. Targets always predict in float32;
    - `compile`: source models through torch.compile; `cuda-graphs` also records their kernels.

    `{fold: false, layout: contiguous}` is the reference mode, which computes as other libraries do.
    """

    batch: Annotated[int, Field(ge=1, le=4096)] = 8
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    room: Annotated[int, Field(ge=1, le=65_536)] | None = None
    fold: bool = True
    layout: Layout = "channels-last"
    precision: Precision = "float32"
    compile: bool | Literal["cuda-graphs"] = False


def fix(threads: int, precision: Precision = "float32") -> None:
    """Give this process `threads` threads and deterministic kernels, in full precision unless tf32 is asked for."""
    import torch

    torch.set_num_threads(threads)
    set_precision(precision)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    _keep_memory()


def set_precision(precision: Precision) -> None:
    """Let the kernels that follow compute in tf32, or, for every other precision, not."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def memory_format(layout: Layout) -> torch.memory_format:
    """PyTorch's word for a layout."""
    import torch

    return torch.channels_last if layout == "channels-last" else torch.contiguous_format


def pass_size(batch: int, device: str, room: int | None = None) -> int:
    """Images in every pass, the last one padded, unless an attack takes several views: the batch, or `room` if less.

    It follows from the spec alone, never from how many images are left: kernels are chosen by it, and some round in
    another order (1x1 convolutions of 16 images on one thread, among others). On a CPU it is a multiple of 4, from 4
    to 16: larger ones gain nothing there, and with smaller ones an image's bits may depend on its row in the pass.
    """
    most = batch if room is None else min(batch, room)
    if device != "cpu":
        return most
    size = -(-batch // _STEP) * _STEP
    return min(_MOST, size if room is None else min(size, max(_STEP, room // _STEP * _STEP)))


def view_room(batch: int, device: str) -> int:
    """Images in one pass over several views of a batch, unless a spec says otherwise: up to 256, on a CPU 16."""
    return _MOST if device == "cpu" else max(batch, _MOST_ELSEWHERE)


def _keep_memory() -> None:
    """Tell glibc to keep freed memory: large tensors would be mapped, faulted in and unmapped again in every layer."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
