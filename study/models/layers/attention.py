"""Find attention modules, with their layers for queries, keys and values, their map, and their projection layer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from study.errors import StudyError, names
from study.models.layers.named import ATTENTION_MAP, ATTENTION_QKV


@dataclass(frozen=True)
class Attention:
    """One attention module.

    Attributes:
        name: Dotted name of the module. The module's output is the result after the projection.
        qkv: Names of the layers whose outputs are queries, keys and values: one layer for all, or several layers. Some
            attention modules use only the weights of a linear layer, which does not run. Then `qkv` is the name of a
            layer that `visible_attention` adds.
        projection: Name of the layer that projects the result; None if no module does this.
        over: What the map weighs: tokens, or channels (XCiT). None for a linear attention, which has no map.
        heads: The number of heads; None if the module does not tell the number.
        silent: Names of layers that never run, because the attention module uses only their weights.
    """

    name: str
    qkv: tuple[str, ...]
    projection: str | None
    over: Literal["tokens", "channels"] | None
    heads: int | None
    silent: tuple[str, ...] = ()

    @property
    def map(self) -> str:
        """Name of the layer whose output is the attention map. This layer exists only inside `visible_attention`."""
        return f"{self.name}.{ATTENTION_MAP}"


def attentions(network: nn.Module) -> tuple[Attention, ...]:
    """Return the attention modules of `network`, in the network's order.

    A module counts as attention if it has the class name of an attention, and layers for queries, keys and values.
    Raises StudyError for any other module with such a class name, unless its class is in `_GATES`, it has no children,
    or it contains an attention.
    """
    found = known_attentions(network)
    known = {attention.name for attention in found}
    for name, one in _so_called(network):
        inner = any(other.startswith(f"{name}.") for other in known)
        if name not in known and not inner and type(one).__name__ not in _GATES and any(one.children()):
            raise StudyError(
                f"the attention of class {type(one).__name__} ('{name}') in this {type(network).__name__} is not known",
                accepted=f"attention with layers named {names('+'.join(each) for each in _QKV)}",
                todo="choose another network, or name layers in place of attention modules",
            )
    return found


def known_attentions(network: nn.Module) -> tuple[Attention, ...]:
    """Return the attention modules of `network` whose layers for queries, keys and values are known."""
    found = (_attention(name, one) for name, one in _so_called(network))
    return tuple(attention for attention in found if attention is not None)


def _so_called(network: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, one) for name, one in network.named_modules() if _CLASSES.search(type(one).__name__)]


def _attention(name: str, module: nn.Module) -> Attention | None:
    if isinstance(module, nn.MultiheadAttention):
        return Attention(name, (f"{name}.{ATTENTION_QKV}",), None, "tokens", module.num_heads, (f"{name}.out_proj",))
    qkv = _present(module, _QKV)
    if not qkv:
        return None
    projection = _present(module, _PROJECTIONS)
    kind = type(module).__name__
    over: Literal["tokens", "channels"] | None = "channels" if kind in _OVER_CHANNELS else "tokens"
    silent = [*qkv, *projection] if kind in _FUNCTIONAL else list(qkv) if _adds_bias(module) else []
    heads: Any = getattr(module, "num_heads", getattr(module, "n_heads", None))
    return Attention(
        name=name,
        qkv=(f"{name}.{ATTENTION_QKV}",) if silent else tuple(f"{name}.{one}" for one in qkv),
        projection=f"{name}.{projection[0]}" if projection and projection[0] not in silent else None,
        over=None if kind in _LINEAR else over,
        heads=heads if isinstance(heads, int) else None,
        silent=tuple(f"{name}.{one}" for one in silent),
    )


def _present(module: nn.Module, choices: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    held = {name for name, one in module.named_children() if not isinstance(one, nn.Identity)}
    return next((choice for choice in choices if held.issuperset(choice)), ())


def _adds_bias(module: nn.Module) -> bool:
    """Return whether a module of timm uses the weights of its layer `qkv` without running this layer.

    Such a module adds a bias to queries and values, but not to keys.
    """
    return getattr(module, "q_bias", None) is not None and not getattr(module, "qkv_bias_separate", False)


def functional_weights(module: nn.Module) -> Iterator[Tensor]:
    """Yield the weights that an attention module uses for queries, keys and values if it runs no layer for them."""
    if isinstance(module, nn.MultiheadAttention):
        if module.in_proj_weight is not None:
            yield module.in_proj_weight
    elif isinstance(qkv := getattr(module, "qkv", None), nn.Linear):
        yield qkv.weight


_CLASSES = re.compile("Attention|Attn|MHSA|GPSA|XCA|SHSA|MLA")
_QKV = (
    *(("qkv",), ("to_qkv",), ("q", "kv"), ("q", "k", "v"), ("qk", "v")),
    *(("q_proj", "k_proj", "v_proj"), ("query", "key", "value")),
)
_PROJECTIONS = (("proj",), ("out_proj",), ("merge",), ("output",), ("o_proj",))
_OVER_CHANNELS = {"XCA", "ChannelAttention", "ChannelAttentionV2", "CrossCovarianceAttn"}
_LINEAR = {"LiteMLA", "FactorAttnConvRelPosEnc"}
_FUNCTIONAL = {"ShiftedWindowAttention", "ShiftedWindowAttentionV2"}
"""Classes of torchvision whose layers `qkv` and `proj` never run, because a function gets the weights of both."""

_GATES = {
    *("ChannelAttn", "LightChannelAttn", "SpatialAttn", "LightSpatialAttn", "CoordAttn", "SimpleCoordAttn"),
    *("EfficientLocalAttn", "StripAttn", "SelectiveKernelAttn", "SplitAttn"),
}
"""Classes of convolutional networks that scale channels or positions. They do not count as attention here."""
