"""What fixes a float result on one kind of processor: batch shape, thread count, kernels, precision."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from study.frozen import Frozen

Layout = Literal["channels-last", "contiguous"]
Precision = Literal["float32", "tf32", "bfloat16"]


class Numerics(Frozen):
    """What changes the rounding of a float, and so a pixel in 100,000: recorded with every row.

    - `batch`: images in one pass; the last batch is padded to it;
    - `room`: images in one pass where an attack takes several views of each: whole batches of views;
    - `fold`: batch norms folded into their convolutions, exact to rounding;
    - `layout`: of images and networks in memory;
    - `precision`: of gradients. Targets always predict in float32;
    - `compile`: source models through torch.compile; `cuda-graphs` also records their kernels.

    `{fold: false, layout: contiguous}` is the reference mode, which computes as other libraries do.
    """

    batch: Annotated[int, Field(ge=1, le=4096)] = 10
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
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
