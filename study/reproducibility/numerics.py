"""The numerics of a study: batch shape, thread count, kernels and precision. They decide how floats are rounded."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AliasChoices, ConfigDict, Field

from study.spec.frozen import Frozen

if TYPE_CHECKING:
    import torch

Layout = Literal["channels-last", "contiguous"]
Precision = Literal["float32", "tf32", "bfloat16"]

_CPU_STEP, _CPU_LARGEST, _GPU_VIEWS = 4, 16, 256
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def _older_key(schema: dict[str, Any]) -> None:
    limit = schema["properties"]["max_pass_images"]
    schema["properties"]["room"] = {**limit, "description": "Older name of `max_pass_images`."}


class Numerics(Frozen):
    """Settings that change the rounding of floats, and with it about one pixel in 100,000. Every row records them.

    - `batch`: images in one pass; the last pass is padded to this number. On a CPU it becomes 4, 8, 12 or 16;
    - `max_pass_images`: largest number of images in one pass for attacks with several views of each image. A pass has
      whole batches of views, and is halved if memory runs out;
    - `fold`: rewrite networks where the result is equal up to rounding: fold batch norms into convolutions, and on a
      CPU compute some convolutions differently (`study.models.rewrites.cpu`);
    - `layout`: memory layout of images and networks;
    - `precision`: precision of gradients. Targets always predict in float32;
    - `compile`: compile source models with torch.compile; `cuda-graphs` also records their kernels.

    `{fold: false, layout: contiguous}` is the reference mode: it computes like other libraries.
    """

    # Ids and run folders have the older name of `max_pass_images`.
    model_config = ConfigDict(serialize_by_alias=True, json_schema_extra=_older_key)

    batch: Annotated[int, Field(ge=1, le=4096)] = 8
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    max_pass_images: Annotated[
        Annotated[int, Field(ge=1, le=65_536)] | None,
        Field(validation_alias=AliasChoices("max_pass_images", "room"), serialization_alias="room"),
    ] = None
    fold: bool = True
    layout: Layout = "channels-last"
    precision: Precision = "float32"
    compile: bool | Literal["cuda-graphs"] = False


def fix(threads: int, precision: Precision = "float32") -> None:
    """Make this process use `threads` threads and deterministic kernels, with TF32 only if `precision` is tf32."""
    import torch

    torch.set_num_threads(threads)
    set_precision(precision)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    _keep_memory()


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """A context that leaves torch as it was: its number of threads, its kernels and TF32. glibc keeps freed memory."""
    import torch

    threads, cuda, cudnn = torch.get_num_threads(), torch.backends.cuda, torch.backends.cudnn
    before = cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = before


def set_precision(precision: Precision) -> None:
    """Turn TF32 on for the precision tf32, and off for every other precision."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def memory_format(layout: Layout) -> torch.memory_format:
    """Return PyTorch's name of a layout."""
    import torch

    return torch.channels_last if layout == "channels-last" else torch.contiguous_format


def pass_size(batch: int, device: str, max_pass_images: int | None = None) -> int:
    """Return the number of images in every pass, after padding: the batch, or `max_pass_images` if it is smaller.

    It depends on the spec and not on the number of images left, because the libraries choose kernels by it, and some
    kernels sum in another order (for example 1x1 convolutions of 16 images on one thread). On a CPU it is a multiple of
    4 from 4 to 16: larger passes are no faster there, and in smaller ones an image's bits may depend on its row.
    """
    most = batch if max_pass_images is None else min(batch, max_pass_images)
    if device != "cpu":
        return most
    size = -(-batch // _CPU_STEP) * _CPU_STEP
    if max_pass_images is not None:
        size = min(size, max(_CPU_STEP, max_pass_images // _CPU_STEP * _CPU_STEP))
    return min(_CPU_LARGEST, size)


def max_view_pass(batch: int, device: str) -> int:
    """Return the default of `max_pass_images`: 16 on a CPU, else 256, or the batch if it is larger."""
    return _CPU_LARGEST if device == "cpu" else max(batch, _GPU_VIEWS)


def _keep_memory() -> None:
    """Make glibc keep freed memory. Otherwise every layer would map, fault in and unmap its large tensors."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
