"""Context managers that capture or change the outputs of layers, or change the gradients at layers.

Layers have the names of `named_modules()` of the network, such as `layer2.3`. For a classifier, these are the names in
the classifier's network, without a prefix. Folding of batch norms does not change names, but it moves a norm into the
convolution before it. The folded convolution then returns the norm's output, and the norm returns its input unchanged.
If the values between convolution and norm matter, name the layer in the `keep` of `Classifier.arrange`.

Inside a context, the network runs without torch.compile, even if the spec asks for torch.compile, because compiled code
ignores hooks that are added later. At the end of the context, also after an exception, the network has its former hooks
and `forward` methods.

Contexts may be nested, also for the same layer. A context that is entered later receives the values that an earlier
context has changed.

Every function that changes a value must treat each row of the batch independently, so that an image's result does not
depend on the other images. Such a function may take random numbers only from streams that depend on the image's id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from study.errors import StudyError
from study.models.layers.named import layer, network_of

Change = Callable[[Tensor], Tensor]
"""A function of a tensor that returns a new tensor of the same shape, dtype and device.

It must treat each row of the batch independently."""


class Features(Mapping[str, Tensor]):
    """A mapping from the names of layers to the outputs of these layers in the last forward pass.

    Access to the output of a layer that did not run raises StudyError.
    """

    def __init__(self, wanted: Collection[str]) -> None:
        self._wanted = tuple(wanted)
        self._held: dict[str, Tensor] = {}

    def clear(self) -> None:
        """Forget the outputs. Each forward pass calls this at its beginning."""
        self._held.clear()

    def hold(self, name: str, output: Tensor) -> None:
        """Keep the output of the layer `name`. Raises StudyError if the layer has run before in this forward pass."""
        if name in self._held:
            raise StudyError(
                f"the layer '{name}' runs more than once in a forward pass, so it has no single output",
                todo="name a layer that runs once, for example the block around it",
            )
        self._held[name] = output

    def __getitem__(self, name: str) -> Tensor:
        if name in self._wanted and name not in self._held:
            raise _did_not_run([name])
        return self._held[name]

    def __contains__(self, name: object) -> bool:
        return name in self._held

    def __iter__(self) -> Iterator[str]:
        return iter(self._wanted)

    def __len__(self) -> int:
        return len(self._wanted)


@contextmanager
def captured(model: nn.Module, names: Collection[str]) -> Iterator[Features]:
    """Capture the outputs of the layers `names` in every forward pass, and yield the outputs of the last pass.

    The outputs are part of the autograd graph. A loss computed from the outputs has a gradient with respect to the
    images, and the logits have a gradient with respect to the outputs. The network continues with a copy of each
    output, because a later layer may change its input in place. If a layer returns several tensors (N, C_i, ...) of one
    size, the captured output is the concatenation of these tensors along the channels.

    Raises StudyError if a layer does not exist. Raises StudyError in a forward pass if a layer does not run, runs
    twice, or returns no tensor.
    """
    features = Features(names)

    def capture(name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            tensor, back = _one_tensor(name, output)
            if any(tensor is one for one in inputs):
                # The layer returns its input, which other layers may read and change.
                tensor = tensor.clone()
            features.hold(name, tensor)
            return back(tensor.clone())

        return hook

    with hooked(model, names) as hooks:
        hooks.enter_context(network_of(model).register_forward_pre_hook(lambda *_: features.clear()))
        for name in features:
            hooks.enter_context(layer(model, name).register_forward_hook(capture(name)))
        yield features


@contextmanager
def changed_forward(model: nn.Module, changes: Mapping[str, Change]) -> Iterator[None]:
    """Replace the output of each named layer by `changes[name](output)` in every forward pass.

    Each function is called whenever its layer runs, in the order of the network, and may keep a state. The function
    gets the output as part of the autograd graph and returns a new tensor. Gradients flow through the function. If a
    layer returns several tensors, the function gets the concatenation of these tensors along the channels.

    Raises StudyError if a layer does not exist. Raises StudyError in a forward pass if a layer does not run or returns
    no tensor, or if a function changes the shape.
    """

    def change(name: str, function: Change) -> Callable[..., Any]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            tensor, back = _one_tensor(name, output)
            return back(_checked(name, "output", function(tensor), tensor))

        return hook

    with hooked(model, changes) as hooks:
        for name, function in changes.items():
            hooks.enter_context(layer(model, name).register_forward_hook(change(name, function)))
        yield


@contextmanager
def changed_backward(
    model: nn.Module, changes: Mapping[str, Change], *, of: Literal["output", "input"] = "output"
) -> Iterator[None]:
    """Replace the gradient of each named layer's output, or of its first input, by `changes[name](gradient)`.

    `of` says whether the gradient is that of the output or of the first input. A changed gradient of the output reaches
    the layer itself and all layers before this layer. A changed gradient of the input reaches only the layers before
    this layer. Gradients on other paths from the same tensor, such as a skip connection, do not change. Values of the
    forward pass keep their bits. The change applies to every forward pass inside the context, even if its backward pass
    comes after the context. It applies to each run of a layer that runs several times.

    Raises StudyError if a layer does not exist. Raises StudyError in a forward pass if a layer does not run, or if its
    output or first input is not a tensor. Raises StudyError in a backward pass if a function changes the shape.
    """

    def on_gradient(name: str, function: Change, tensor: Tensor) -> None:
        def hook(gradient: Tensor) -> Tensor:
            return _checked(name, f"gradient of the {of}", function(gradient), gradient)

        tensor.register_hook(hook)  # type: ignore[no-untyped-call]

    def after(name: str, function: Change) -> Callable[..., Any]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            tensor, back = _one_tensor(name, output)
            if not tensor.requires_grad:
                return None
            if tensor is output and not any(tensor is one for one in inputs):
                # The hook gets the gradient of the layer's own output, even if the block later adds its skip
                # connection to this tensor in place.
                on_gradient(name, function, tensor)
                return None
            # The layer returns its input, which other layers may read too. Their gradients must not change.
            alias = tensor.view_as(tensor)
            on_gradient(name, function, alias)
            return back(alias)

        return hook

    def before(name: str, function: Change) -> Callable[..., Any]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> Any:
            if not inputs or not isinstance(inputs[0], Tensor):
                raise StudyError(f"the layer '{name}' has no tensor as its first input", todo="name another layer")
            if not inputs[0].requires_grad:
                return None
            alias = inputs[0].view_as(inputs[0])
            on_gradient(name, function, alias)
            return tuple(alias if one is inputs[0] else one for one in inputs)

        return hook

    with hooked(model, changes) as hooks:
        for name, function in changes.items():
            module = layer(model, name)
            if of == "output":
                hooks.enter_context(module.register_forward_hook(after(name, function)))
            else:
                hooks.enter_context(module.register_forward_pre_hook(before(name, function)))
        yield


def output_shapes(model: nn.Module, images: Tensor, names: Collection[str]) -> dict[str, tuple[int, ...]]:
    """Return, for each layer in `names`, the shape of its output in a forward pass of `images`.

    If a layer runs several times, the shape is the largest one. `images` are pixels if `model` is a classifier, and
    normalised images if `model` is a network. Layers that do not run or return no tensor are left out.
    """
    found: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                shape = tuple(output.shape)
                found[name] = max(shape, found.get(name, shape), key=lambda each: torch.Size(each).numel())

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for name in names:
            hooks.enter_context(layer(model, name).register_forward_hook(note(name)))
        model(images)
    return found


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Run a classifier's network without torch.compile, even if the classifier was compiled by `compile_with`.

    Raises StudyError if the network itself or one of its layers is compiled.
    """
    network = network_of(model)
    for name, one in network.named_modules():
        if type(one).__name__ == "OptimizedModule" or getattr(one, "_compiled_call_impl", None) is not None:
            raise StudyError(
                f"{f'the layer {name!r}' if name else 'the network'} is compiled, and compiled code ignores changes",
                accepted="a classifier with compile_with(), or a network without torch.compile",
                todo="compile the classifier, not its network",
            )
    # A classifier that finds a hook does not use its compiled function.
    with network.register_forward_hook(lambda *_: None):
        yield


@contextmanager
def hooked(model: nn.Module, names: Collection[str]) -> Iterator[ExitStack]:
    """Run the network without torch.compile, and yield a stack that removes the caller's hooks after the context.

    Raises StudyError in a forward pass in which one of the layers `names` does not run.
    """
    network = network_of(model)
    runs: Counter[str] = Counter()

    def count(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            runs[name] += 1

        return hook

    def check(*_: Any) -> None:
        silent = [name for name in names if not runs[name]]
        if silent:
            raise _did_not_run(silent)

    modules = [(name, layer(model, name)) for name in names]
    with ExitStack() as hooks:
        hooks.enter_context(uncompiled(model))
        hooks.enter_context(network.register_forward_pre_hook(lambda *_: runs.clear()))
        for name, module in modules:
            hooks.enter_context(module.register_forward_pre_hook(count(name)))
        hooks.enter_context(network.register_forward_hook(check))
        yield hooks


def _did_not_run(names: list[str]) -> StudyError:
    some = ", ".join(f"'{name}'" for name in names[:5]) + (", …" if len(names) > 5 else "")
    return StudyError(
        f"the network did not run {some} in its forward pass",
        accepted="layers that run; some modules only hold weights that another module uses, or do not run in eval mode",
        todo="name the module that contains the layer, or a layer that `study models SPEC --layers MODEL` prints",
    )


def _checked(name: str, what: str, given: Any, wanted: Tensor) -> Tensor:
    if not isinstance(given, Tensor) or given.shape != wanted.shape:
        found = f"shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
        raise StudyError(
            f"the function for the {what} of layer '{name}' returned {found}",
            accepted=f"a tensor of shape {tuple(wanted.shape)}, like the tensor that the function received",
            todo="return a changed tensor of the same shape",
        )
    return given


def _one_tensor(name: str, output: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Return the tensor in a layer's output, and a function that returns the output with another tensor in its place.

    Several tensors of one size are concatenated along the channels. Raises StudyError for any other output.
    """
    if isinstance(output, Tensor):
        return output, lambda changed: changed
    parts = [one for one in output if one is not None] if isinstance(output, tuple | list) else []
    if parts and all(isinstance(one, Tensor) for one in parts):
        if len(parts) == 1:
            return parts[0], lambda changed: type(output)(None if one is None else changed for one in output)
        sizes = [one.shape[1] for one in parts if one.ndim > 1]
        alike = {(one.shape[0], one.shape[2:]) for one in parts if one.ndim > 1}
        if len(sizes) == len(output) and len(alike) == 1:
            return torch.cat(parts, 1), lambda changed: type(output)(changed.split(sizes, 1))
    raise StudyError(
        f"the output of layer '{name}' is not a tensor, but {type(output).__name__}",
        accepted="a tensor, or several tensors of one size whose channels can be concatenated",
        todo="name a layer inside this layer",
    )
