"""torch.compile for source models: each model is compiled separately, for fixed shapes, with deterministic kernels.

All models share one Python function. By default, Dynamo keeps at most eight compiled versions of a function, counted
over all models. So a ninth model would silently run uncompiled. This module sets a higher limit, and an error is raised
when the limit is reached.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from study.errors import StudyError

How = Literal[True, "cuda-graphs"]

_VERSIONS = 256
"""Maximum number of compiled versions of one function.

Versions differ in the shape of the images, in whether gradients are computed, or in the model if models share a layer.
"""

_ISOLATED = {"isolate_recompiles": True} if "isolate_recompiles" in inspect.signature(torch.compile).parameters else {}

_OR_ERROR = {"triton.cudagraph_or_error": True}
"""Without this option, a network that cannot be recorded as CUDA graphs would silently run without CUDA graphs."""

_GIVEN_UP = "FailOnRecompileLimitHit"
"""The class name of Dynamo's error at the limit of versions.

The name is used because an import of the class would load Dynamo in every command that uses classifiers."""

BACKEND = "inductor"
"""The backend of torch.compile, which turns a graph into code. Tests use a backend that compiles faster."""


class CompiledFunction:
    """A compiled function from pixels to logits. `called` is the model's name in messages."""

    def __init__(self, function: Callable[[Tensor], Tensor], how: bool | str, called: str) -> None:
        _raise_limits()
        self.graphs = how == "cuda-graphs"
        self._called = called
        options: dict[str, Any] = {"dynamic": False, "backend": BACKEND, **_ISOLATED}
        if self.graphs and BACKEND == "inductor":
            options["options"] = {"triton.cudagraphs": True, **_OR_ERROR}
        self._function = torch.compile(function, **options)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return the logits of `pixels`. Raises StudyError if the limit of compiled versions is reached."""
        try:
            if not self.graphs:
                compiled: Tensor = self._function(pixels)
                return compiled
            # The next replay of the CUDA graph overwrites its memory. Therefore the logits are copied here, and the
            # gradient of the pixels is copied in the backward pass.
            copied: Tensor = self._function(_CopiedGradient.apply(pixels)).clone()
            return copied
        except Exception as error:
            if type(error).__name__ != _GIVEN_UP:
                raise
            raise StudyError(
                f"{self._called} has been compiled for {_VERSIONS} shapes or settings, which is the limit",
                accepted="networks whose inputs have few different shapes",
                todo="set numerics.compile to false, which changes the ids of attack runs",
            ) from error


class _CopiedGradient(torch.autograd.Function):
    """The identity function, with a backward pass that returns a copy of the gradient."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor) -> Tensor:
        return pixels.view_as(pixels)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].clone()


def _raise_limits() -> None:
    """Let Dynamo keep `_VERSIONS` compiled versions of a function, and raise an error at this limit."""
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, _VERSIONS)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 64 * _VERSIONS)
    config.fail_on_recompile_limit_hit = True
