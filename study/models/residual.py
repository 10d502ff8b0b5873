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
    """Multiply the gradient at the end of every residual branch of `network`, and yield the number of these branches.

    The values of the forward pass do not change. As in Wu et al. 2020 (arXiv:2002.05990, equation 9), the gradient of a
    block z + f(z) with input z and branch f becomes the gradient of z + gamma f(z), where gamma is `residual`. Modules
    in a skip connection (a downsampling convolution) do not change. In a DenseNet, the branch is the new features of a
    layer, and gamma is `dense`. If gamma is 1, the branches do not change and are not counted.

    The change applies to every forward pass inside the context, even if its backward pass comes after the context. At
    the end, also after an exception, the network has its original hooks and parameters.

    With compatibility `authors`, the gradient is that of the authors' released code, up to one positive factor for each
    batch. The released code scales the gradient at ReLUs, inside branches and after additions, except at ReLUs whose
    name contains "0.relu". The exception is meant for layerN.0, but also matches layer3.10, layer3.20 and layer3.30.
    Therefore, in a ResNet, the gradient is not scaled in blocks whose index ends in 0. In a DenseNet, it is scaled as
    in the paper. The released code supports only plain ResNets and DenseNets. This function applies the same rule to
    every network of the same blocks, such as ResNeXt. Raises StudyError for `authors` with any other network.
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

    The factor is applied by a hook on the output tensor. This hook gets the gradient of the module's own output, even
    if the block later adds its skip connection to the same tensor in place. A backward hook of the module would not
    support such in-place operations.
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
