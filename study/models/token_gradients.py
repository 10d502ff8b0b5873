"""Change the gradients of tokens and of attention maps in transformers, for each image independently."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from study.errors import StudyError
from study.models.features import changed_backward, hooked
from study.models.layers.catalogue import layers_of
from study.models.layers.named import layer, network_of
from study.models.visible_attention import visible_attention


@dataclass(frozen=True)
class Transformer:
    """The names of the layers of a transformer at which attacks change gradients, in the network's order.

    Attributes:
        maps: The attention maps. These layers exist only inside the context `visible_attention`.
        qkv: The layers whose outputs are queries, keys and values.
        mlps: The MLP blocks.
    """

    maps: tuple[str, ...]
    qkv: tuple[str, ...]
    mlps: tuple[str, ...]


def transformer_of(model: nn.Module, method: str) -> Transformer:
    """Return the parts of the transformer `model`.

    Raises StudyError if the network has no attention, or has an attention module without a map over tokens. `method`
    names the attack in the message.
    """
    network, layers = network_of(model), layers_of(model)
    attention = layers.attention
    if not attention or any(one.over != "tokens" for one in attention):
        raise StudyError(
            f"{method} does not apply to this {type(network).__name__}: "
            + ("one of its attention modules has no map over tokens" if attention else "it has no attention"),
            accepted="transformers with attention over tokens, such as ViT, DeiT, CaiT, PiT, Visformer",
            todo="leave this source out of the attack's experiments",
        )
    return Transformer(
        maps=tuple(one.map for one in attention),
        qkv=tuple(name for one in attention for name in one.qkv),
        mlps=layers.mlps,
    )


def tokens_scaled(gradient: Tensor, factor: Tensor) -> Tensor:
    """Return `gradient` with the gradients of extreme tokens multiplied by `factor`.

    For each image and channel, the extreme tokens are the token with the largest and the token with the smallest
    gradient. `factor` has the shape (N,), or () for the same factor for all images. `gradient` has the shape
    (N, tokens, channels) or (N, channels, height, width). With the shape (N, channels), there is a single token, which
    is multiplied once.
    """
    if gradient.ndim == 2:
        return gradient * _shaped(factor, gradient)
    along = 1 if gradient.ndim == 3 else 2
    flat = gradient if gradient.ndim == 3 else gradient.flatten(2)
    return (flat * _at_extremes(flat, flat, along, factor)).view_as(gradient)


def maps_scaled(gradient: Tensor, factor: Tensor) -> Tensor:
    """Return a map's `gradient` (N, heads, queries, keys) with extreme rows and columns multiplied by `factor`.

    For each image and head, the extreme rows and columns are those of the largest and of the smallest gradient.
    `factor` has the shape (N,), or () for the same factor for all images. If a map has a single query, only columns are
    multiplied.
    """
    keys = gradient.shape[-1]
    flat = gradient.flatten(2)
    largest, smallest = flat.argmax(2, keepdim=True), flat.argmin(2, keepdim=True)
    changed = gradient
    for place in (largest, smallest):
        if gradient.shape[2] > 1:
            changed = changed * _weights(gradient[..., 0], 2, place // keys, factor)[..., None]
        changed = changed * _weights(gradient[:, :, 0], 2, place % keys, factor)[:, :, None]
    return changed


def _at_extremes(gradient: Tensor, like: Tensor, along: int, factor: Tensor) -> Tensor:
    largest, smallest = gradient.argmax(along, keepdim=True), gradient.argmin(along, keepdim=True)
    return _weights(like, along, largest, factor) * _weights(like, along, smallest, factor)


def _weights(like: Tensor, along: int, place: Tensor, factor: Tensor) -> Tensor:
    """Return a tensor shaped like `like`, with `factor` at the indices `place` of the axis `along`, and 1 elsewhere."""
    return torch.ones_like(like).scatter(along, place, _shaped(factor, like).expand(place.shape).to(like.dtype))


def _shaped(factor: Tensor, like: Tensor) -> Tensor:
    return factor if factor.ndim == 0 else factor.view(-1, *[1] * (like.ndim - 1))


@contextmanager
def changed_scores(model: nn.Module, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """For each attention map `name`, replace the gradient of its scores by `changes[name](gradient)`.

    Scores are the input of the softmax that computes the map. Use this context inside `visible_attention`. Raises
    StudyError in a forward pass if a map is not the direct result of a softmax.
    """

    def change(name: str, function: Callable[[Tensor], Tensor]) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, weights: Tensor) -> None:
            node = weights.grad_fn
            if node is None:
                return
            if "Softmax" not in node.name():
                raise StudyError(
                    f"the attention map '{name}' is not the direct result of a softmax",
                    accepted="attention with one softmax over its keys",
                    todo="use `variant: paper`, or leave this source out",
                )
            node.register_hook(lambda inputs, _: (function(inputs[0]), *inputs[1:]))

        return hook

    with hooked(model, changes) as hooks:
        for name, function in changes.items():
            hooks.enter_context(layer(model, name).register_forward_hook(change(name, function)))
        yield


Sort = Literal["maps", "qkv", "mlps"]
"""The kind of a gradient: of attention maps (`maps`), of queries, keys and values (`qkv`), or of MLPs (`mlps`)."""

EXTREMES: Mapping[Sort, Callable[[Tensor, Tensor], Tensor]] = {
    "maps": maps_scaled,
    "qkv": tokens_scaled,
    "mlps": tokens_scaled,
}
"""For each kind of gradient, the function that multiplies the extreme gradients by a factor."""


@contextmanager
def changed_tokens(
    model: nn.Module,
    parts: Transformer,
    change: Callable[[Sort, str, Tensor], Tensor],
    at: Literal["map", "scores"],
) -> Iterator[None]:
    """Replace the gradient of each layer in `parts` by `change(sort, layer, gradient)`.

    `sort` is the kind of the gradient, and `layer` is the name of the layer. The first axis of each gradient is the
    axis of the images. For attention maps, `at` selects the gradient of the map ("map"), or the gradient of the scores
    before the softmax ("scores"). Raises StudyError if the network has no attention maps. Raises StudyError in a
    backward pass if a gradient has several rows for one image.
    """
    with counted_rows(model) as rows, visible_attention(model):

        def changes(sort: Sort, layers: Collection[str]) -> dict[str, Callable[[Tensor], Tensor]]:
            return {name: functools.partial(changed, sort, name) for name in layers}

        def changed(sort: Sort, name: str, gradient: Tensor) -> Tensor:
            return change(sort, name, one_row_an_image(gradient, rows[0], name))

        maps = changes("maps", parts.maps)
        tokens = {**changes("qkv", parts.qkv), **changes("mlps", parts.mlps)}
        with (
            changed_backward(model, maps) if at == "map" else changed_scores(model, maps),
            changed_backward(model, tokens),
        ):
            yield


def one_row_an_image(gradient: Tensor, rows: int, name: str) -> Tensor:
    """Return `gradient` unchanged. Raises StudyError if its first axis does not have `rows` entries, one per image."""
    if len(gradient) != rows:
        raise StudyError(
            f"the layer '{name}' has several rows for an image: its attention works in windows",
            accepted="transformers whose attention reads all tokens of an image, such as ViT, DeiT and PiT",
            todo="leave this source out of the attack's experiments",
        )
    return gradient


@contextmanager
def counted_rows(model: nn.Module) -> Iterator[list[int]]:
    """Yield a list with one number: the number of images in the present forward pass."""
    rows = [0]

    def note(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        rows[0] = len(inputs[0])

    with network_of(model).register_forward_pre_hook(note):
        yield rows
