"""The Skip Gradient Method: scale the gradient at the ends of a network's residual branches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from study.errors import StudyError
from study.models.layers.blocks import Branch, branches

__all__ = ["Branch", "Compatibility", "branches", "decayed"]

Compatibility = Literal["paper", "authors"]


@contextmanager
def decayed(
    network: nn.Module, *, residual: float, dense: float, compatibility: Compatibility = "paper"
) -> Iterator[int]:
    """Multiply the gradient, not the value, at the end of every branch of `network`; yield the number of branches.

    Wu et al. 2020 (arXiv:2002.05990), equation 9: the gradient of a block z + f(z) with input z and branch f becomes
    that of z + gamma f(z), where gamma is `residual`. Modules in a skip connection (a downsampling convolution) are
    left alone. In a DenseNet, the branch is a layer's new features, and gamma is `dense`. Branches with a gamma of 1
    are skipped and not counted.

    The scaling applies to every forward pass inside the context, even if its backward pass comes later. At the end, or
    after an exception, the network has its original hooks and parameters.

    Compatibility `authors` reproduces the gradient of the authors' released code, up to one positive factor for each
    batch. That code scales the gradient at ReLUs, inside branches and after additions, except at ReLUs whose name
    contains "0.relu". The exception is meant for layerN.0, but also matches layer3.10, layer3.20 and layer3.30.
    Therefore, in a ResNet, blocks whose index ends in 0 have no decay. A DenseNet decays as in the paper. The released
    code supports plain ResNets and DenseNets; here, its rule applies to every network of the same blocks, such as
    ResNeXt. Raises StudyError for `authors` with any other network.
    """
    chosen = branches(network)
    if compatibility == "authors":
        chosen = _as_the_authors(network, chosen)
    factors = [(branch.end, dense if branch.dense else residual) for branch in chosen]
    factors = [(end, factor) for end, factor in factors if factor != 1]
    with ExitStack() as hooks:
        for end, factor in factors:
            hooks.enter_context(end.register_forward_hook(_Decay(factor)))
        yield len(factors)


@dataclass(frozen=True)
class _Decay:
    """A forward hook that multiplies the gradient of a module's output by `factor`.

    A hook on the tensor receives the gradient of its present value, so a block may add its skip connection in place
    afterwards. A backward hook of a module would not support in-place operations.
    """

    factor: float

    def __call__(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(self._scale)  # type: ignore[no-untyped-call]

    def _scale(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * self.factor


def _as_the_authors(network: nn.Module, found: list[Branch]) -> list[Branch]:
    families = {branch.family for branch in found}
    if not families or "other" in families:
        raise StudyError(
            f"the authors' code of the Skip Gradient Method does not support this {type(network).__name__}",
            accepted="with compatibility 'authors': ResNets and DenseNets",
            todo="use compatibility 'paper', or a ResNet or DenseNet as source",
        )
    return [branch for branch in found if branch.dense or not branch.block.endswith("0")]
