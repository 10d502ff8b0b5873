"""The numerics of a study: batch shape, thread count, kernels and precision. They decide how floats are rounded."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AliasChoices, ConfigDict, Field

from study.errors import StudyError, first_line
from study.process.children import GPU_DEFAULTS
from study.spec.frozen import Frozen

if TYPE_CHECKING:
    import torch

Layout = Literal["channels-last", "contiguous"]
Precision = Literal["float32", "tf32", "bfloat16"]
Asked = Precision | Literal["auto"]
"""A precision that a user can ask for. `auto` means tf32 on a GPU and float32 on a CPU."""

_CPU_STEP, _CPU_LARGEST, _GPU_VIEWS = 4, 16, 256
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_USABLE = 0.9
"""A process has a share of a GPU's memory, and may use this fraction of the share. The plan of workers uses it too."""

_BFLOAT16 = "bfloat16, version 2"
"""The name of bfloat16 in ids. In version 1, the features that an attack reads before its first step were float32."""


def _older_key(schema: dict[str, Any]) -> None:
    limit = schema["properties"]["max_pass_images"]
    schema["properties"]["room"] = {**limit, "description": "Older name of `max_pass_images`."}


class Numerics(Frozen):
    """Settings that change the rounding of floats, and with it about one pixel in 100,000. Files of rows record them.

    - `batch`: images in one pass; the last pass is padded to this number. On a CPU, the number is rounded up to a
      multiple of 4, and is at most 16;
    - `threads`: number of CPU threads that torch uses in each worker;
    - `max_pass_images`: largest number of images in one pass for attacks with several views of each image. A pass holds
      equally many views of every image in a batch. The limit is halved if memory runs out;
    - `fold`: rewrite networks where the result is equal up to rounding: fold batch norms into convolutions, and on a
      CPU compute some convolutions differently (`study.models.rewrites.cpu`);
    - `layout`: memory layout of images and networks;
    - `precision`: precision of source models, in their forward and backward passes; pixels, losses and steps are
      computed in float32. `auto` is tf32 on GPUs, where other libraries use it too, and float32 elsewhere. The first
      launch replaces `auto` by tf32 or float32, and records this choice in the run folder. `float32` does not use TF32,
      and is slow on a GPU. `bfloat16` is the fastest;
    - `target_precision`: precision of the models that predict; their probabilities are computed in float32;
    - `deterministic`: on a GPU, use only kernels that give the same bits in every run. `false` permits networks that
      have a layer without such a kernel, and faster attention;
    - `compile`: compile source models with torch.compile; `cuda-graphs` also records their kernels as CUDA graphs.

    `{fold: false, layout: contiguous, precision: float32}` is the reference mode: it computes like other libraries.
    """

    # Ids and run folders contain `max_pass_images` under its older name, `room`.
    model_config = ConfigDict(serialize_by_alias=True, json_schema_extra=_older_key)

    batch: Annotated[int, Field(ge=1, le=4096)] = 8
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    max_pass_images: Annotated[
        Annotated[int, Field(ge=1, le=65_536)] | None,
        Field(validation_alias=AliasChoices("max_pass_images", "room"), serialization_alias="room"),
    ] = None
    fold: bool = True
    layout: Layout = "channels-last"
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = "auto"
    compile: bool | Literal["cuda-graphs"] = False
    target_precision: Precision = "float32"
    deterministic: bool = True

    def settled(self, device: str) -> Numerics:
        """Return these numerics. `precision: auto` is replaced by float32 on a CPU, and by tf32 on other devices."""
        chosen = settled(self.precision, device)
        return self if chosen == self.precision else self.model_copy(update={"precision": chosen})

    def identity(self) -> dict[str, Any]:
        """Return the settings that are part of ids: the settings that differ from their defaults.

        `precision` is left out if it is `auto` or `float32`, so `auto` and `float32` give the same ids.
        """
        found = self.model_dump(mode="json", exclude_defaults=True)
        if self.precision == "bfloat16":
            found["precision"] = _BFLOAT16
        elif self.precision == "float32":
            del found["precision"]
        return found


def settled(precision: Asked, device: str) -> Precision:
    """Return `precision`, or for `auto` the precision of the device: float32 on a CPU, tf32 on other devices."""
    if precision != "auto":
        return precision
    return "float32" if device == "cpu" else "tf32"


def fix(threads: int, *, device: str = "cpu", deterministic: bool = True) -> None:
    """Set the numerics of this process: `threads` CPU threads in torch, and no TF32 outside `network_pass`.

    If `deterministic` is True, a GPU runs only deterministic kernels. An operation without a deterministic kernel
    raises RuntimeError, which `not_deterministic` turns into a StudyError.
    """
    import torch

    torch.set_num_threads(threads)
    _allow_tf32(False)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    if device != "cpu":
        # cuBLAS reads its variable at its first use, and torch's allocator reads its variable at its first allocation.
        for name, value in GPU_DEFAULTS.items():
            os.environ.setdefault(name, value)
        # This setting also prevents Inductor from choosing kernels by their measured speed, which varies.
        torch.use_deterministic_algorithms(deterministic)
        # With deterministic algorithms, torch by default also fills every new tensor, which takes time. The fill
        # matters only to code that reads a new tensor before it writes to the tensor.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    _keep_memory()


def limit_memory(device: str, share: float) -> None:
    """Limit this process to 0.9 of its `share` (0..1) of a GPU's memory, even if more memory is free.

    If memory runs out, passes get smaller, which changes rounding. With a fixed limit, the size of passes does not
    depend on other processes on the GPU. On a CPU, the function does nothing.
    """
    import torch

    if device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(_USABLE * min(share, 1.0), torch.device(device))


@contextlib.contextmanager
def network_pass(precision: Precision, device: str) -> Iterator[None]:
    """Return a context for the forward and the backward pass of networks in `precision`.

    Inside the context, TF32 is on if `precision` is tf32, else off. For bfloat16, the forward pass must also run within
    `autocast`, and the network must come from `Classifier.in_precision`, which casts the weights to bfloat16. On a CPU,
    the place of an image in its pass has no effect on an activation: see `whole_vectors`.
    """
    import torch

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    _allow_tf32(precision == "tf32")
    try:
        with elementwise(device):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def elementwise(device: str) -> contextlib.AbstractContextManager[None]:
    """Return a context in which the place of an image in its batch does not change how activations are rounded.

    The context has an effect on a CPU only: see `whole_vectors`.
    """
    from study.devices.copies import is_host

    if not is_host(device):
        return contextlib.nullcontext()
    from study.reproducibility.whole_vectors import whole_vectors

    return whole_vectors()


def autocast(precision: Precision, device: str) -> contextlib.AbstractContextManager[Any]:
    """Return a context for forward passes of networks. If `precision` is bfloat16, operations compute in bfloat16."""
    import torch

    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16")


@contextlib.contextmanager
def pixel_algebra(device: str) -> Iterator[None]:
    """Return a context for computations on pixels inside passes of networks: float32, without TF32 and bfloat16."""
    with network_pass("float32", device), autocast("float32", device):
        yield


@contextlib.contextmanager
def foreign_code(precision: Precision, device: str) -> Iterator[None]:
    """Return a context for the attack of another library: TF32 if `precision` is tf32, else float32.

    The precision holds for the whole attack, because its network passes cannot be separated from its computations on
    pixels. An operation without a deterministic kernel runs nevertheless, and torch prints a warning.
    """
    import torch

    strict = torch.are_deterministic_algorithms_enabled()
    before = torch.is_deterministic_algorithms_warn_only_enabled()
    if strict:
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with network_pass("tf32" if precision == "tf32" else "float32", device):
            yield
    finally:
        if strict:
            torch.use_deterministic_algorithms(True, warn_only=before)


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Return a context that restores torch's number of threads, choice of kernels and TF32 settings at its end.

    Two effects of `fix` remain: glibc continues to keep freed memory, and on a GPU the environment variables stay set.
    """
    import torch

    threads, cuda, cudnn = torch.get_num_threads(), torch.backends.cuda, torch.backends.cudnn
    before = cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic
    strict = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = before
        now = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        if now != strict:
            # This call imports Inductor, which takes seconds, so it is made only if the setting has changed.
            torch.use_deterministic_algorithms(strict[0], warn_only=strict[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def not_deterministic(error: Exception) -> StudyError | None:
    """Return a StudyError if `error` says that an operation has no deterministic GPU kernel; None for other errors."""
    if not isinstance(error, RuntimeError) or "does not have a deterministic implementation" not in str(error):
        return None
    return StudyError(
        f"a network or an attack needs a GPU kernel that is not deterministic: {first_line(error)}",
        accepted="layers and components with deterministic GPU kernels",
        todo="set numerics.deterministic to false, which changes ids and lets a repeated run differ in some pixels; "
        "or compute on a CPU",
    )


def memory_format(layout: Layout) -> torch.memory_format:
    """Return the `torch.memory_format` for a layout of the spec."""
    import torch

    return torch.channels_last if layout == "channels-last" else torch.contiguous_format


def pass_size(batch: int, device: str, max_pass_images: int | None = None) -> int:
    """Return the number of images in every pass, after padding: the batch, or `max_pass_images` if it is smaller.

    The number depends on the spec, not on the number of images that are left. The reason is that libraries choose
    kernels by the size of a pass, and kernels sum in different orders (for example 1x1 convolutions of 16 images on one
    thread). On a CPU, the number is 4, 8, 12 or 16. Larger passes are no faster on a CPU. In smaller passes, the result
    of an image may depend on its row in the batch.
    """
    most = batch if max_pass_images is None else min(batch, max_pass_images)
    if device != "cpu":
        return most
    size = -(-batch // _CPU_STEP) * _CPU_STEP
    if max_pass_images is not None:
        size = min(size, max(_CPU_STEP, max_pass_images // _CPU_STEP * _CPU_STEP))
    return min(_CPU_LARGEST, size)


def max_view_pass(batch: int, device: str) -> int:
    """Return the default of `max_pass_images`: 16 on a CPU, else 256 or `batch`, whichever is larger."""
    return _CPU_LARGEST if device == "cpu" else max(batch, _GPU_VIEWS)


def _allow_tf32(allowed: bool) -> None:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def _keep_memory() -> None:
    """Make glibc keep freed memory for reuse. By default, glibc maps and unmaps memory for each large tensor."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
