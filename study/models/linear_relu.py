"""Linear backpropagation: gradients pass the ReLUs of later layers as if these ReLUs were the identity."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from study.errors import StudyError
from study.models.features import hooked
from study.models.functions import Call, changed_functions
from study.models.layers.blocks import Branch
from study.models.layers.catalogue import layers_of
from study.models.layers.named import layer, network_of


@contextmanager
def linear_relus(model: nn.Module, after: str) -> Iterator[None]:
    """Pass gradients unchanged through the ReLUs that run after the layer `after`. The forward pass keeps its bits.

    In a network with residual branches, gradients pass unchanged only through the ReLUs inside branches. For each
    image, the gradient at a branch's input is then scaled to the L2 norm of the true gradient, which uses the ReLUs'
    own derivatives. Therefore the backward pass of a branch runs twice. In other networks, gradients pass unchanged
    through all ReLUs that run after the layer, and are not scaled.

    Raises StudyError if a branch does not start at its block's input. Raises StudyError in a forward pass if no ReLU
    runs after the layer `after` (inside a branch, if the network has residual branches), or if no module of a block
    reads the block's input.
    """
    network = network_of(model)
    branches = [branch for branch in layers_of(model).blocks if not branch.dense]
    inner = next((branch for branch in branches if branch.start != branch.block), None)
    if inner is not None:
        raise StudyError(
            f"linear backpropagation does not apply to this {type(network).__name__}: the branch that ends at "
            f"'{inner.name}' does not start at its block's input",
            accepted="networks with ReLUs: VGG, Inception, DenseNet, ResNet and networks of similar blocks",
            todo="leave this source out",
        )
    state = _State(whole=not branches)
    with hooked(model, [after]) as hooks:
        hooks.enter_context(network.register_forward_pre_hook(state.begin))
        hooks.enter_context(layer(model, after).register_forward_hook(state.activate))
        hooks.enter_context(network.register_forward_hook(state.check))
        for branch in branches:
            _watch(model, branch, state, hooks)
        hooks.enter_context(changed_functions(model, {"relu": state.relu}, after=after))
        yield


class _State:
    """The state of one forward pass and its backward pass.

    Attributes:
        whole: Whether the network has no residual branches. If so, gradients pass unchanged through all ReLUs that run
            after the layer `after`.
        active: Whether the layer `after` has run.
        true: Whether ReLUs use their own derivatives at present.
        branch: The present run of a residual branch; None outside branches.
        linear: The number of ReLUs so far whose gradient passes unchanged.
    """

    def __init__(self, *, whole: bool) -> None:
        self.whole = whole
        self.active = False
        self.true = False
        self.branch: _Run | None = None
        self.linear = 0

    def begin(self, *_: Any) -> None:
        self.active, self.branch, self.linear = False, None, 0

    def activate(self, *_: Any) -> None:
        self.active = True

    def check(self, network: nn.Module, *_: Any) -> None:
        if not self.linear:
            raise StudyError(
                f"this {type(network).__name__} runs no ReLU{'' if self.whole else ' in a residual branch'} after the "
                f"layer where linear backpropagation starts",
                accepted="networks with ReLUs: VGG, Inception, DenseNet, ResNet and networks of similar blocks",
                todo="choose an earlier layer, or leave this source out",
            )

    def relu(self, call: Call, given: Tensor, *rest: Any, **options: Any) -> Any:
        if not self.whole and self.branch is None:
            return call(given, *rest, **options)
        self.linear += 1
        return _LinearReLU.apply(given, self)


class _LinearReLU(torch.autograd.Function):
    """A ReLU with the gradient of the identity. While `state.true` is true, the ReLU has its own gradient."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, state: _State) -> Tensor:
        ctx.state = state
        ctx.save_for_backward(given > 0)
        return given.relu()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (positive,) = ctx.saved_tensors
        return (gradient * positive if ctx.state.true else gradient), None


class _Run:
    """One run of one residual branch. `given` is its input, and `alias` is a view of it that only the branch reads."""

    def __init__(self, given: Tensor, state: _State) -> None:
        self.given = given
        self.used = False
        self.alias = given.view_as(given)
        self._state = state
        self._norm: Tensor | None = None
        if given.requires_grad:
            self.alias.register_hook(self._scale)  # type: ignore[no-untyped-call]

    def measure(self, output: Tensor, gradient: Tensor) -> None:
        """Record the norm of the true gradient at the branch's input. `gradient` is that of the branch's `output`."""
        if self._state.true:
            return
        self._state.true = True
        try:
            (true,) = torch.autograd.grad(output, self.alias, gradient, retain_graph=True)
        finally:
            self._state.true = False
        self._norm = _norms(true)

    def _scale(self, gradient: Tensor) -> Tensor | None:
        if self._state.true or self._norm is None:
            return None
        own = _norms(gradient)
        return gradient * (self._norm / torch.where(own > 0, own, 1))


def _norms(gradient: Tensor) -> Tensor:
    """Return the L2 norm of each row of `gradient`, in a shape (N, 1, ...) that can multiply `gradient`."""
    found: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return found.view(-1, *[1] * (gradient.ndim - 1))


def _watch(model: nn.Module, branch: Branch, state: _State, hooks: ExitStack) -> None:
    """Add hooks that track the runs of a branch.

    In the branch's block, the modules that read the block's input get `_Run.alias` in place of this input.
    """
    block = layer(model, branch.block)

    def begin(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        state.branch = _Run(inputs[0], state) if state.active else None

    def enter(_: nn.Module, inputs: tuple[Any, ...]) -> Any:
        run = state.branch
        if run is None or not any(one is run.given for one in inputs):
            return None
        run.used = True
        return tuple(run.alias if one is run.given else one for one in inputs)

    def end(_: nn.Module, __: Any, output: Tensor) -> Tensor | None:
        run, state.branch = state.branch, None
        if run is None or not output.requires_grad:
            return None
        if not run.used:
            raise StudyError(
                f"linear backpropagation does not apply: no module in '{branch.block}' reads the input of this block",
                accepted="blocks whose branch is made of modules",
                todo="leave this source out",
            )
        # The block gets a clone, because it may add its skip connection in place, and `output` must not change.
        given = output.clone()
        given.register_hook(lambda gradient: run.measure(output, gradient))  # type: ignore[no-untyped-call]
        return given

    hooks.enter_context(block.register_forward_pre_hook(begin))
    for name, child in block.named_children():
        if f"{branch.block}.{name}" != branch.skip:
            hooks.enter_context(child.register_forward_pre_hook(enter))
    hooks.enter_context(branch.end.register_forward_hook(end))
