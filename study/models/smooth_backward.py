"""Smoother derivatives of ReLUs and max-poolings in the backward pass. The forward pass does not change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from study.errors import StudyError
from study.models.features import hooked
from study.models.functions import Call, changed_functions
from study.models.layers.named import layer, network_of


@contextmanager
def smooth_backward(model: nn.Module, after: str, *, temperature: float, border: float) -> Iterator[None]:
    """Replace the derivatives of ReLUs and max-poolings by smoother derivatives.

    ReLUs that run after the layer `after` get the derivative of SiLU. All max-poolings get the derivative of a soft
    maximum: the gradient of a pooled value goes to all pixels of its window, in shares softmax(`temperature` * pixel).
    Pixels of a window beyond the image's border count with the value `border`, and their share of the gradient is lost.
    If `border` is minus infinity, their share is 0.

    Raises StudyError in a forward pass if no ReLU runs after the layer `after`.
    """
    network = network_of(model)
    state = _State(temperature, border)
    with hooked(model, [after]) as hooks:
        hooks.enter_context(network.register_forward_pre_hook(state.begin))
        hooks.enter_context(layer(model, after).register_forward_hook(state.activate))
        hooks.enter_context(network.register_forward_hook(state.check))
        hooks.enter_context(changed_functions(model, {"relu": state.relu, "max_pool2d": state.pool}))
        yield


class _State:
    def __init__(self, temperature: float, border: float) -> None:
        self._temperature = temperature
        self._border = border
        self._active = False
        self._relus = 0

    def begin(self, *_: Any) -> None:
        self._active, self._relus = False, 0

    def activate(self, *_: Any) -> None:
        self._active = True

    def check(self, network: nn.Module, *_: Any) -> None:
        if not self._relus:
            raise StudyError(
                f"no ReLU runs after the chosen layer of this {type(network).__name__}",
                accepted="networks with ReLUs, such as ResNet, VGG, Inception and DenseNet",
                todo="choose an earlier layer, or leave this source out",
            )

    def relu(self, call: Call, given: Tensor, *rest: Any, **options: Any) -> Any:
        if not self._active:
            return call(given, *rest, **options)
        self._relus += 1
        return _SmoothReLU.apply(given)

    def pool(self, call: Call, given: Tensor, kernel_size: Any, *rest: Any, **options: Any) -> Any:
        names = ("stride", "padding", "dilation", "ceil_mode", "return_indices")
        found = {**dict(zip(names, rest, strict=False)), **options}
        if found.get("return_indices"):
            return call(given, kernel_size, *rest, **options)
        kernel, padding, dilation = _pair(kernel_size), _pair(found.get("padding", 0)), _pair(found.get("dilation", 1))
        window = _Window(kernel, _pair(found.get("stride") or kernel_size), padding, dilation)
        soft = _Soft(window, self._temperature, self._border)
        pooled = lambda: call(given, kernel_size, *rest, **options)  # noqa: E731
        return _SoftPool.apply(given, pooled, soft)


class _SmoothReLU(torch.autograd.Function):
    """A ReLU with the derivative of SiLU, x sigmoid(x)."""

    @staticmethod
    def forward(ctx: Any, given: Tensor) -> Tensor:
        ctx.save_for_backward(given)
        return given.relu()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (given,) = ctx.saved_tensors
        gate = given.sigmoid()
        found: Tensor = gradient * (gate + given * gate * (1 - gate))
        return found


@dataclass(frozen=True)
class _Window:
    """The windows of a pooling: kernel, stride, padding and dilation along both axes."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def extent(self, pooled: Tensor) -> tuple[int, int]:
        """Return the height and width of the area that all windows cover, including padding.

        `pooled` (N, C, H, W) is the output of the pooling.
        """
        height, width = (
            (count - 1) * stride + dilation * (kernel - 1) + 1
            for count, stride, dilation, kernel in zip(
                pooled.shape[-2:], self.stride, self.dilation, self.kernel, strict=True
            )
        )
        return height, width


@dataclass(frozen=True)
class _Soft:
    """How the gradient of a pooled value is divided among the pixels of its window.

    `temperature` is the factor in the softmax, and `border` is the value of pixels beyond the image's border.
    """

    window: _Window
    temperature: float
    border: float


class _SoftPool(torch.autograd.Function):
    """Max-pooling with the derivative of a soft maximum."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, pooled: Callable[[], Tensor], soft: _Soft) -> Tensor:
        ctx.save_for_backward(given)
        ctx.soft = soft
        return pooled()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (given,) = ctx.saved_tensors
        soft: _Soft = ctx.soft
        window = soft.window
        count, channels, height, width = given.shape
        extent = window.extent(gradient)
        top, left = window.padding
        edges = (left, extent[1] - left - width, top, extent[0] - top - height)
        padded = functional.pad(given, edges, value=soft.border)
        shape = {"kernel_size": window.kernel, "dilation": window.dilation, "stride": window.stride}
        columns = functional.unfold(padded, **shape).view(count, channels, -1, gradient[0, 0].numel())
        shares = (soft.temperature * columns).softmax(2)
        spread = (shares * gradient.reshape(count, channels, 1, -1)).view(count, -1, gradient[0, 0].numel())
        folded = functional.fold(spread, extent, **shape)
        return functional.pad(folded, tuple(-edge for edge in edges)), None, None


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
