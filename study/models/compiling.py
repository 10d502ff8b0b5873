"""torch.compile for source models: each model for itself, fixed shapes, kernels that repeat, and no silent way back.

Dynamo keeps the compiled code of all models at the one Python function that they share, and by default at most eight
versions of it: the ninth model would run without compilation, and nobody would know.
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
"""Compiled versions of one function: shapes of a pass, with and without gradients; and layers that models share."""

_ISOLATED = {"isolate_recompiles": True} if "isolate_recompiles" in inspect.signature(torch.compile).parameters else {}

_OR_ERROR = {"triton.cudagraph_or_error": True}
"""Without this, a network that cannot be recorded would run without graphs."""

_GIVEN_UP = "FailOnRecompileLimitHit"
"""Dynamo's error. Its import would load Dynamo with every command that knows classifiers."""

BACKEND = "inductor"
"""What turns a graph into code. Tests put a faster one in its place."""


class CompiledFunction:
    """A function from pixels to logits, compiled. `called` is the model's name in messages."""

    def __init__(self, function: Callable[[Tensor], Tensor], how: bool | str, called: str) -> None:
        _raise_limits()
        self.graphs = how == "cuda-graphs"
        self._called = called
        options: dict[str, Any] = {"dynamic": False, "backend": BACKEND, **_ISOLATED}
        if self.graphs and BACKEND == "inductor":
            options["options"] = {"triton.cudagraphs": True, **_OR_ERROR}
        self._function = torch.compile(function, **options)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return the logits. Raises StudyError where the network would run without compilation from now on."""
        try:
            if not self.graphs:
                compiled: Tensor = self._function(pixels)
                return compiled
            # The next replay writes to the same memory: logits, and later the gradient of the pixels, are copied out.
            copied: Tensor = self._function(_CopiedGradient.apply(pixels)).clone()
            return copied
        except Exception as error:
            if type(error).__name__ != _GIVEN_UP:
                raise
            raise StudyError(
                f"{self._called} has been compiled for {_VERSIONS} shapes or settings, and is compiled no more",
                accepted="networks whose passes have few shapes",
                todo="set numerics.compile to false, which changes ids",
            ) from error


class _CopiedGradient(torch.autograd.Function):
    """The identity, whose gradient is a copy."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor) -> Tensor:
        return pixels.view_as(pixels)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].clone()


def _raise_limits() -> None:
    """Let Dynamo keep enough compiled versions, and raise an error where it would give up."""
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, _VERSIONS)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 64 * _VERSIONS)
    config.fail_on_recompile_limit_hit = True
