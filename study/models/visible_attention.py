"""Make attention maps visible to hooks. By default, fused kernels compute attention without storing the map."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from study.errors import StudyError, names
from study.models.features import uncompiled
from study.models.functions import Call, intercepted
from study.models.layers.attention import Attention, attentions, functional_weights
from study.models.layers.named import ATTENTION_MAP, ATTENTION_QKV, network_of


@contextmanager
def visible_attention(model: nn.Module, modules: Collection[str] | None = None) -> Iterator[tuple[str, ...]]:
    """Compute the attention modules `modules` (None: all) without fused kernels, and yield the names of their maps.

    Inside the context, each attention module has a layer `attention_map`. Its input and its output are the map after
    the softmax:

    - (N, heads, queries, keys) for attention over all tokens;
    - (N * windows, heads, queries, keys) for attention in windows of tokens; the windows of an image are consecutive;
    - (N, heads, channels, channels) for attention over channels.

    The contexts `captured`, `changed_forward` and `changed_backward` accept this layer like any other layer. Some
    modules compute queries, keys and values from the weights of a layer that does not run. Such a module also gets a
    layer `attention_qkv`, whose output (N, tokens, 3 * width) has queries, keys and values. `Attention.qkv` is the name
    of this layer.

    For queries q, keys k and values v, and heads of width d, the attention is softmax(q k^T / sqrt(d) + mask) v,
    computed by matrix products. Results equal those of the fused kernel up to rounding, but need more memory. Networks
    with talking heads (CaiT) mix the maps of several heads after this layer. At the end of the context, also after an
    exception, the network is as before.

    Raises StudyError if a module is not a known attention module or has no map. Raises StudyError in a forward pass if
    a module computes no map or several maps, or applies dropout to its map (in training mode).
    """
    network = network_of(model)
    with ExitStack() as stack:
        stack.enter_context(uncompiled(model))
        chosen = _chosen(network, modules)
        for one in chosen:
            stack.enter_context(_in_steps(network.get_submodule(one.name), one))
        yield tuple(one.map for one in chosen)


def _chosen(network: nn.Module, modules: Collection[str] | None) -> list[Attention]:
    known = {one.name: one for one in attentions(network)}
    wanted = [name for name, one in known.items() if one.over] if modules is None else list(modules)
    for name in wanted:
        if name not in known or known[name].over is None:
            what = "has no map" if name in known else "is no attention module"
            raise StudyError(
                f"'{name}' {what} in this {type(network).__name__}",
                accepted=names((one for one, each in known.items() if each.over), name),
                todo="name one of these modules; without names, all modules with a map are used",
            )
    if not wanted:
        raise StudyError(f"this {type(network).__name__} has no attention map", accepted="a transformer")
    return [known[name] for name in wanted]


@contextmanager
def _in_steps(module: nn.Module, attention: Attention) -> Iterator[None]:
    added = [ATTENTION_MAP]
    if attention.qkv[0].endswith(f".{ATTENTION_QKV}"):
        added.append(ATTENTION_QKV)
    steps = _Steps(module, attention.name)
    for name in added:
        module.add_module(name, nn.Identity().eval())
    try:
        with (
            module.register_forward_pre_hook(steps.begin),
            intercepted(module, steps),
            module.register_forward_hook(steps.end),
        ):
            yield
    finally:
        for name in added:
            delattr(module, name)


class _Steps:
    """Replacements for the torch functions that one attention module calls.

    They pass the attention map to the layer `attention_map`.
    """

    def __init__(self, module: nn.Module, name: str) -> None:
        self._module = module
        self._name = name
        self._maps = 0
        self._weights = list(functional_weights(module))

    def begin(self, *_: Any) -> None:
        self._maps = 0

    def end(self, *_: Any) -> None:
        if self._maps != 1:
            raise self._error(f"computes {self._maps or 'no'} attention maps in a forward pass, but must compute one")

    def __call__(self, call: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        steps: dict[str, Callable[..., Any]] = {
            "scaled_dot_product_attention": self._attend,
            "multi_head_attention_forward": self._heads,
            "softmax": functools.partial(self._softmax, call),
            "linear": functools.partial(self._linear, call),
        }
        step = steps.get(getattr(call, "__name__", ""), call)
        return step(*arguments, **options)

    def _shown(self, weights: Tensor) -> Tensor:
        self._maps += 1
        shown: Tensor = self._module.get_submodule(ATTENTION_MAP)(weights)
        return shown

    def _softmax(self, call: Call, given: Tensor, dim: int | None = None, *rest: Any, **options: Any) -> Tensor:
        found: Tensor = call(given, dim, *rest, **options)
        if dim is None or dim % given.ndim != given.ndim - 1:
            return found
        return self._shown(found)

    def _linear(self, call: Call, given: Tensor, weight: Tensor, *rest: Any, **options: Any) -> Tensor:
        found: Tensor = call(given, weight, *rest, **options)
        if hasattr(self._module, ATTENTION_QKV) and any(weight is one for one in self._weights):
            found = self._module.get_submodule(ATTENTION_QKV)(found)
        return found

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, *more: Any, **options: Any) -> Tensor:
        given = {**dict(zip(("attn_mask", "dropout_p", "is_causal"), more, strict=False)), **options}
        mask, scale = given.get("attn_mask"), given.get("scale")
        if given.get("dropout_p"):
            raise self._error("applies dropout to its map, as in training mode")
        if given.get("enable_gqa"):
            key, value = (one.repeat_interleave(query.shape[-3] // one.shape[-3], -3) for one in (key, value))
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        scores = (query * factor) @ key.transpose(-2, -1)
        if given.get("is_causal"):
            allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            scores = scores.masked_fill(~allowed, float("-inf"))
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
        return self._shown(scores.softmax(-1)) @ value

    def _heads(
        self, query: Tensor, key: Tensor, value: Tensor, *more: Any, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Compute `multi_head_attention_forward` with a visible map.

        As in an encoder, `query`, `key` and `value` must be the same tensor (tokens, N, width). Raises StudyError
        otherwise.
        """
        width, heads, weight, bias, bias_key, bias_value, add_zero, dropout, out_weight, out_bias = more
        plain = query is key is value and query.ndim == 3 and weight is not None
        extras = (bias_key, bias_value, add_zero or None, options.get("key_padding_mask"))
        if not plain or any(one is not None for one in extras) or (dropout and options.get("training", True)):
            raise self._error("is a torch.nn.MultiheadAttention with other inputs than one sequence of tokens")
        packed = functional.linear(query.transpose(0, 1), weight, bias)
        if hasattr(self._module, ATTENTION_QKV):
            packed = self._module.get_submodule(ATTENTION_QKV)(packed)
        count, tokens, _ = packed.shape
        split = packed.reshape(count, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        mask = options.get("attn_mask")
        if mask is not None:
            # In this mask, True forbids attention. In the mask of the fused kernel, True allows attention.
            mask = ~mask if mask.dtype == torch.bool else mask
            mask = mask.view(count, heads, tokens, tokens) if mask.ndim == 3 else mask
        seen: list[Tensor] = []
        with self._module.get_submodule(ATTENTION_MAP).register_forward_hook(lambda *one: seen.append(one[-1])):
            mixed = self._attend(split[0], split[1], split[2], mask)
        result = functional.linear(mixed.permute(2, 0, 1, 3).reshape(tokens, count, width), out_weight, out_bias)
        if not options.get("need_weights", True):
            return result, None
        return result, seen[0].mean(1) if options.get("average_attn_weights", True) else seen[0]

    def _error(self, what: str) -> StudyError:
        return StudyError(
            f"the attention module '{self._name}' {what}",
            accepted="attention with one softmax over its keys, or scaled_dot_product_attention, in eval mode",
            todo="leave this module out, or choose another network",
        )
