"""Change the values that the skip connections of residual blocks carry, inside a context."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from study.errors import StudyError
from study.models.features import hooked
from study.models.layers.blocks import Branch
from study.models.layers.catalogue import layers_of
from study.models.layers.named import layer


@contextmanager
def changed_skips(model: nn.Module, change: Callable[[str, Tensor], Tensor]) -> Iterator[tuple[str, ...]]:
    """Make each residual block compute change(name, s) + f(x) in place of s + f(x), and yield the branches' names.

    x is the block's input, f its branch, and s the value of the skip connection: x, or a downsampling of x. `name` is
    the name of the branch's end. `change` must return a tensor of the same shape, and must treat each row of the batch
    independently. For example, ghost networks (Li et al. 2020, arXiv:1812.03413) multiply s by a random number. The
    layers of a DenseNet have no skip connection. The context makes a block compute f(x) + (change(name, s) - s) + s,
    which equals change(name, s) + f(x) up to rounding.

    The network runs without torch.compile, and is restored at the end. Raises StudyError if the network has no residual
    branches, or if a skip connection is a function without a module. Raises StudyError in a forward pass if f(x) has
    another shape than s (Swin, mixers).
    """
    branches = [branch for branch in layers_of(model).blocks if not branch.dense]
    functions = [branch.name for branch in branches if branch.skip is None and not branch.identity]
    if not branches or functions:
        raise StudyError(
            f"the skip connection around '{functions[0]}' is a function, not a module"
            if functions
            else "the network has no skip connections",
            accepted="networks of residual blocks whose skip connections are the identity, or a module",
            todo="choose another network",
        )
    names = [branch.name for branch in branches]
    with hooked(model, names) as hooks:
        for branch in branches:
            for handle in _changed(model, branch, change):
                hooks.enter_context(handle)
        yield tuple(names)


def _changed(model: nn.Module, branch: Branch, change: Callable[[str, Tensor], Tensor]) -> Iterator[Any]:
    """Yield the handles of the hooks that change one skip connection."""
    if branch.skip is not None:
        yield layer(model, branch.skip).register_forward_hook(lambda _, __, carried: change(branch.name, carried))
        return
    held: list[Tensor] = []

    def note(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        held[:] = inputs[:1]

    def add(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        # The block itself adds `carried` later. If the block has changed `carried` in place, both additions use the
        # new values.
        (carried,) = held
        held.clear()
        if output.shape != carried.shape:
            raise StudyError(
                f"the branch that ends at '{branch.name}' has shape {tuple(output.shape)}, but its skip connection has "
                f"shape {tuple(carried.shape)}",
                accepted="blocks whose branch has the layout of its skip connection",
                todo="choose another network",
            )
        return output + (change(branch.name, carried) - carried)

    yield layer(model, branch.start).register_forward_pre_hook(note)
    yield branch.end.register_forward_hook(add)
