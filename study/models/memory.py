"""Estimate the memory that a model needs, by tracing the allocations of its passes on tensors without data."""

from __future__ import annotations

import contextlib
import copy
import importlib
import logging
import warnings
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from study.errors import StudyError, first_line
from study.images.labels import LabelSet, label_set
from study.models import user_code, zero_shot
from study.models.reference import Model


@dataclass(frozen=True)
class Memory:
    """The memory that a network needs, in bytes.

    `parameters` is the memory of parameters and buffers. `forward` is the peak of a forward pass without gradients.
    `gradient` is the peak of a forward and backward pass for the gradient of the images. Both peaks include parameters,
    buffers and images.
    """

    parameters: int
    forward: int
    gradient: int


def estimate(network: nn.Module, *, channels: int, size: int, batch: int) -> Memory:
    """Estimate the memory of `network` with frozen parameters for float32 images (`batch`, `channels`, `size`, `size`).

    Nothing is computed, and `network` does not change. `network` may come from `build_meta`. Every live storage counts
    once, even if it has several views. The estimate does not include the memory of a device's libraries (workspaces,
    caches, fragmentation, CUDA's context). It assumes fused attention kernels. Raises StudyError if the network's
    operations depend on the values of tensors.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    held = _hollow(network, fake)
    with fake:
        tensors = [*held.parameters(), *held.buffers()]
        peaks = [_peak(held, tensors, (batch, channels, size, size), gradient=gradient) for gradient in (False, True)]
        return Memory(_Allocations(tensors).live, *peaks)


def parameters(network: nn.Module) -> int:
    """Return the number of scalar parameters of a network. A shared parameter counts once."""
    return sum(parameter.numel() for parameter in network.parameters())


def build_meta(model: Model, *, labels: LabelSet | None = None, allow_code: bool = False) -> nn.Module:
    """Build the network of `model` on the meta device, which needs no memory, weights or downloads.

    The number of outputs is that of the zoo's weights. Without weights from a zoo, it is the number of `classes` in the
    spec, or else of `labels` (None: ImageNet's). The user's own code runs only with `allow_code`. Raises StudyError if
    the network cannot be built on the meta device.
    """
    from study.models.zoos import ZOOS

    if model.network is None:
        raise StudyError(
            "this model has no network, because it is a service or only adds a transform to another model",
            accepted="a model with a network",
        )
    labels = labels or label_set("imagenet")
    if model.zoo == "pretrainedmodels":
        # The import of this package creates modules that need real memory, so it must happen before `_without_memory`.
        importlib.import_module("pretrainedmodels")
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), _without_memory(model.zoo):
            warnings.simplefilter("ignore")
            built: nn.Module
            if model.is_zero_shot:
                built = zero_shot.outline(model, labels)
            elif model.zoo == "python":
                built = user_code.build(model, allowed=allow_code)[0]
            else:
                zoo, tag = ZOOS[model.zoo], model.tag
                standard = labels.name == "imagenet" and model.classes is None
                width = zoo.outputs(model.name, tag) if tag else None if standard else len(model.classes or labels)
                arguments = zoo.defaults(model.name, width)
                if tag and model.bare_name == "inception_v3":
                    # For this network only, torchvision keeps the auxiliary head when it loads its own weights.
                    arguments.pop("aux_logits", None)
                full = f"{model.bare_name}.{tag}" if tag and model.zoo == "timm" else model.name
                built = zoo.build(full, None, arguments | model.arguments)
    except StudyError:
        raise
    except Exception as error:
        raise _cannot(f"{model.network} cannot be built without memory", error) from error
    return built.to("meta")


def _without_memory(zoo: str) -> contextlib.AbstractContextManager[object]:
    """Return a context in which a zoo's networks are built without memory.

    All networks of timm support the meta device. For other zoos, only `torch.empty` uses this device.
    """
    return torch.device("meta") if zoo == "timm" else _EmptyOnMeta()


class _EmptyOnMeta(TorchFunctionMode):
    """A mode in which only the tensors of `torch.empty` are on the meta device.

    These are the weights, because PyTorch creates weights with `torch.empty` and then initialises them. Other tensors
    keep their values, because some networks compute the widths of layers with tensors.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.empty:
            return func(*args, **{**(kwargs or {}), "device": "meta"})
        return func(*args, **(kwargs or {}))


class _Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that counts the bytes of all live storages in `live`, and the maximum of this number in `peak`.

    The storages of `tensors` count from the beginning.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: set[int] = set()
        for tensor in tensors:
            self.hold(tensor)

    def hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._known:
            return
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        self._known.add(storage._cdata)
        weakref.finalize(storage, self._freed, storage._cdata, size).atexit = False

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self.hold(leaf)
        return made

    def _freed(self, key: int, size: int) -> None:
        self.live -= size
        self._known.remove(key)


def _peak(network: nn.Module, tensors: list[Tensor], shape: tuple[int, ...], *, gradient: bool) -> int:
    images = torch.empty(shape, requires_grad=gradient)
    allocations = _Allocations([*tensors, images])
    # PyTorch would also log the failure, which the raised error already contains.
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        with allocations, torch.set_grad_enabled(gradient):
            logits = network(images)
            if gradient:
                torch.autograd.grad(logits.sum(), images)
    except Exception as error:
        what = f"{shape[0]} images with {shape[1]} channels and {shape[2]} x {shape[3]} pixels"
        raise _cannot(f"the memory for {what} cannot be estimated", error) from error
    finally:
        logger.disabled = before
    return allocations.peak


def _hollow(network: nn.Module, fake: FakeTensorMode) -> nn.Module:
    """Return a copy of `network` in eval mode, with parameters and buffers that have no data and need no gradient.

    Tensors that share a storage in `network` also share a storage in the copy.
    """
    storages: dict[int, Tensor] = {}
    replaced: dict[int, Any] = {}
    with fake:
        for tensor in [*network.parameters(), *network.buffers()]:
            storage = tensor.untyped_storage()
            if storage._cdata not in storages:
                storages[storage._cdata] = torch.empty(storage.nbytes(), dtype=torch.uint8)
            typed = storages[storage._cdata].view(tensor.dtype)
            hollow = typed.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
            frozen = nn.Parameter(hollow, requires_grad=False) if isinstance(tensor, nn.Parameter) else hollow
            replaced[id(tensor)] = frozen
    return copy.deepcopy(network, replaced).eval()


def _cannot(what: str, error: Exception) -> StudyError:
    return StudyError(
        f"{what}: {type(error).__name__}: {first_line(error)}",
        accepted="a size that the network supports, and a network whose operations do not depend on values",
        todo="try a batch on the device",
    )
