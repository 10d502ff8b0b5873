"""Virtual dense connections: in a transformer, the gradients of later blocks are added to those of earlier blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from study.errors import StudyError
from study.models.features import changed_backward
from study.models.layers.catalogue import layers_of
from study.models.layers.named import network_of
from study.models.token_gradients import changed_scores, transformer_of
from study.models.visible_attention import visible_attention


@dataclass(frozen=True)
class Weights:
    """The factors of gradients.

    Attributes:
        attention: Factor of the gradient of an attention map or its scores.
        mlp: Factor of the gradient of an MLP branch's input.
        added: Factor of the gradient that was recorded in the last block.
        decay: Going back from the last block, the factor of each block's recorded gradient is `decay` times the factor
            of the block after it.
    """

    attention: float
    mlp: float
    added: float
    decay: float


@contextmanager
def virtual_dense(model: nn.Module, weights: Weights, at: Literal["map", "scores"]) -> Iterator[None]:
    """Add the gradients of all later blocks to the gradients inside each block.

    Each backward pass from the logits runs twice. The first run goes through the unchanged network. It records, for
    each block, the gradient of the attention map (or of the map's scores) and the gradient of the MLP branch's input.

    The second run changes the gradients. Let b be the number of blocks after a block, so that the last block has b = 0.
    The gradient of a map (or of its scores) becomes `attention` times itself, plus `added` times a sum. Each later
    block has a term in this sum: `decay`^b times the block's recorded gradient. The gradient of an MLP branch's input
    changes in the same way, with `mlp` in place of `attention`. At the class token (and at distillation and register
    tokens), the gradient of an MLP branch's input also gets `added` times `decay` times this token's gradient after the
    last block.

    Raises StudyError if the network is not a transformer of equal blocks. Raises StudyError in a backward pass if the
    loss does not depend on the logits.
    """
    found = _blocks(model)
    state = _State(found, weights)
    with ExitStack() as stack:
        stack.enter_context(visible_attention(model))
        stack.enter_context(changed_backward(model, {found.last: state.note_end}))
        stack.enter_context(
            changed_backward(model, {name: state.on(name, weights.mlp) for name in found.mlps}, of="input")
        )
        maps = {name: state.on(name, weights.attention) for name in found.maps}
        stack.enter_context(changed_backward(model, maps) if at == "map" else changed_scores(model, maps))
        stack.enter_context(model.register_forward_hook(state.forward))
        yield


@dataclass(frozen=True)
class _Blocks:
    """The parts of a network of equal blocks.

    `maps` and `mlps` are the names of the attention maps and of the first layers of the MLP branches, in the order of
    the blocks. `last` is the name of the last block. `prefix` is `Patches.prefix`.
    """

    maps: Sequence[str]
    mlps: Sequence[str]
    last: str
    prefix: int


def _blocks(model: nn.Module) -> _Blocks:
    layers = layers_of(model)
    maps = transformer_of(model, "vdc").maps
    starts: dict[str, list[str]] = {}
    for branch in layers.blocks:
        starts.setdefault(branch.block, []).append(branch.start)
    stages = layers.stages
    alike = tuple(starts) == stages and len(maps) == len(stages) and all(len(one) == 2 for one in starts.values())
    if not alike or not all(name.startswith(f"{stage}.") for name, stage in zip(maps, stages, strict=True)):
        raise StudyError(
            f"vdc does not apply to this {type(network_of(model)).__name__}: it does not consist of equal blocks, each "
            f"with an attention and an MLP",
            accepted="plain transformers, such as ViT and DeiT",
            todo="leave this source out of the attack's experiments",
        )
    return _Blocks(maps, [one[1] for one in starts.values()], stages[-1], layers.patches.prefix)


class _State:
    """The gradients that the first run of a backward pass records, and the sums that the second run adds."""

    def __init__(self, blocks: _Blocks, weights: Weights) -> None:
        self._blocks = blocks
        self._weights = weights
        self._recording = False
        self._recorded: dict[str, Tensor] = {}
        self._added: dict[str, Tensor] = {}

    def forward(self, _: nn.Module, inputs: tuple[Any, ...], logits: Tensor) -> None:
        self._added = {}
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self._record(inputs[0], logits, gradient))  # type: ignore[no-untyped-call]

    def note_end(self, gradient: Tensor) -> Tensor:
        if self._recording:
            self._recorded[""] = gradient
        return gradient

    def on(self, name: str, factor: float) -> Callable[[Tensor], Tensor]:
        def change(gradient: Tensor) -> Tensor:
            if self._recording:
                self._recorded[name] = gradient
                return gradient
            if name not in self._added:
                raise StudyError(
                    "vdc starts from the gradient of the logits, but the loss does not depend on the logits",
                    accepted="an objective of logits",
                    todo="choose another objective, or leave vdc out",
                )
            return factor * gradient + self._added[name]

        return change

    def _record(self, image: Tensor, logits: Tensor, gradient: Tensor) -> None:
        if self._recording:
            return
        self._recorded = {}
        self._recording = True
        try:
            torch.autograd.grad(logits, image, gradient, retain_graph=True)
        finally:
            self._recording = False
        end, weights = self._recorded[""], self._weights
        first = torch.zeros_like(end)
        first[:, : self._blocks.prefix] = weights.added * weights.decay * end[:, : self._blocks.prefix]
        self._add(self._blocks.mlps, first)
        self._add(self._blocks.maps, torch.zeros_like(self._recorded[self._blocks.maps[-1]]))
        self._recorded = {}

    def _add(self, layers: Sequence[str], total: Tensor) -> None:
        factor = self._weights.added
        for name in reversed(layers):
            self._added[name] = total
            total = total + factor * self._recorded[name]
            factor *= self._weights.decay
