"""What fixes a float result on one kind of processor: batch shape, thread count, kernels, precision."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from study.frozen import Frozen

if TYPE_CHECKING:
    import torch

Layout = Literal["channels-last", "contiguous"]
Precision = Literal["float32", "tf32", "bfloat16"]

_LEAST, _MOST, _MOST_ELSEWHERE = 4, 16, 256
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


class Numerics(Frozen):
    """What changes the rounding of a float, and so a pixel in 100,000: recorded with every row.

    - `batch`: images that are crafted together; the last batch is padded to it. On a CPU it is computed in passes of 4,
      8, 12 or 16 images, which makes its size a matter of memory alone;
    - `room`: images in one pass where an attack takes several views of each: whole batches of views, halved where
      memory runs out;
    - `fold`: networks rewritten where that is exact to rounding: batch norms folded into their convolutions, and
      on a CPU some convolutions computed another way (`study.models.cpu`);
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


def pass_size(batch: int, device: str) -> int:
    """Images in one pass: on a CPU at most 16, and a multiple of 4; elsewhere the batch.

    Passes of 4, 8, 12 and 16 images gave the same bits there in every network that was tried (eight of them), with one
    thread and with two: so a batch can have any size. Fewer would not.
    """
    return _MOST if device == "cpu" else batch


def view_room(batch: int, device: str) -> int:
    """Images in one pass over several views of a batch, unless a spec says otherwise: up to 256, but on a CPU."""
    size = pass_size(batch, device)
    return size if device == "cpu" else max(size, _MOST_ELSEWHERE)


def padded(count: int, batch: int, device: str) -> int:
    """The images that `count` of a batch are filled up to: on a CPU a multiple of 4, elsewhere the batch."""
    return -(-count // _LEAST) * _LEAST if device == "cpu" else batch


def _keep_memory() -> None:
    """Tell glibc to keep freed memory: large tensors would be mapped, faulted in and unmapped again in every layer."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
