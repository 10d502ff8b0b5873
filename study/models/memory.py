"""How much memory a model needs: by following what its passes would allocate, on tensors that hold nothing."""

from __future__ import annotations

import contextlib
import copy
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
from study.models import user_code
from study.models.reference import Model
from study.models.weights.locate import bare, tag_of


@dataclass(frozen=True)
class Memory:
    """Bytes. `parameters`: of all parameters and buffers. `forward`: at the height of a pass without gradients.

    `gradient`: at the height of a pass forth and back, for a gradient of the images alone. Both heights include the
    parameters and the images.
    """

    parameters: int
    forward: int
    gradient: int


def estimate(network: nn.Module, *, channels: int, size: int, batch: int) -> Memory:
    """What `network` needs for float32 images (`batch`, `channels`, `size`, `size`), its parameters frozen.

    Nothing is computed and `network` stays as it is; it may be one of `build_meta`. What is counted is every storage
    that lives at the same time, once, whatever views it has. Not counted: what a device's library takes for itself
    (workspaces, caches, fragmentation, CUDA's context). Attention is what the fused kernels need. Raises StudyError
    where the network cannot run without values.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    held = _hollow(network, fake)
    with fake:
        tensors = [*held.parameters(), *held.buffers()]
        heights = [_height(held, tensors, (batch, channels, size, size), gradient=wanted) for wanted in (False, True)]
        return Memory(_Allocations(tensors).live, *heights)


def parameters(network: nn.Module) -> int:
    """How many numbers a network's parameters are; one that is shared counts once."""
    return sum(parameter.numel() for parameter in network.parameters())


def build_meta(model: Model, *, labels: LabelSet | None = None, allow_code: bool = False) -> nn.Module:
    """The network of `model`, as wide as its weights are, on the meta device: without memory, weights and downloads.

    For weights that do not come from the zoo it has as many outputs as `labels` (None: ImageNet's) or `classes`. Code
    of the user's own runs only with `allow_code`. Raises StudyError where the network cannot be built this way.
    """
    from study.models.zoos import ZOOS

    if model.network is None:
        raise StudyError("a service or a transformation has no network of its own", accepted="a model with a network")
    labels = labels or label_set("imagenet")
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), _unheld(model.zoo):
            warnings.simplefilter("ignore")
            if model.zoo == "python":
                built = user_code.build(model, allowed=allow_code)[0]
            else:
                zoo, tag = ZOOS[model.zoo], tag_of(model)
                usual = labels.name == "imagenet" and model.classes is None
                width = zoo.outputs(model.name, tag) if tag else None if usual else len(model.classes or labels)
                arguments = zoo.defaults(model.name, width)
                if tag and bare(model) == "inception_v3":
                    # With its own weights torchvision keeps the auxiliary head, of this network alone.
                    arguments.pop("aux_logits", None)
                full = f"{bare(model)}.{tag}" if tag and model.zoo == "timm" else model.name
                built = zoo.build(full, None, arguments | model.arguments)
    except StudyError:
        raise
    except Exception as error:
        raise _cannot(f"{model.network} cannot be built without memory", error) from error
    return built.to("meta")


def _unheld(zoo: str) -> contextlib.AbstractContextManager[object]:
    """Where networks of a zoo are built: timm sees to it that all of its can be on the meta device."""
    return torch.device("meta") if zoo == "timm" else _EmptyOnMeta()


class _EmptyOnMeta(TorchFunctionMode):
    """Weights are born empty and drawn afterwards, so `empty` alone goes to the meta device.

    All other numbers stay real: networks compute their widths with tensors, and read them.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.empty:
            return func(*args, **{**(kwargs or {}), "device": "meta"})
        return func(*args, **(kwargs or {}))


class _Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows which storages live, from `live` bytes of `tensors` on, and how many bytes that were at the most."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.most = 0
        self._known: set[int] = set()
        for tensor in tensors:
            self.hold(tensor)

    def hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._known:
            return
        size = storage.nbytes()
        self.live += size
        self.most = max(self.most, self.live)
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


def _height(network: nn.Module, tensors: list[Tensor], shape: tuple[int, ...], *, gradient: bool) -> int:
    images = torch.empty(shape, requires_grad=gradient)
    allocations = _Allocations([*tensors, images])
    # What fails is told in the error that is raised; PyTorch would print it as well.
    told = logging.getLogger("torch._subclasses.fake_tensor")
    before, told.disabled = told.disabled, True
    try:
        with allocations, torch.set_grad_enabled(gradient):
            logits = network(images)
            if gradient:
                torch.autograd.grad(logits.sum(), images)
    except Exception as error:
        what = f"{shape[0]} images of {shape[1]} channels and {shape[2]} x {shape[3]} pixels"
        raise _cannot(f"what the network needs for {what} cannot be told", error) from error
    finally:
        told.disabled = before
    return allocations.most


def _hollow(network: nn.Module, fake: FakeTensorMode) -> nn.Module:
    """A copy in eval mode whose parameters and buffers hold nothing, share what they shared, and need no gradient."""
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
        accepted="a size that the network takes, and work that does not depend on the values it is done on",
        todo="try a batch on the device itself",
    )
