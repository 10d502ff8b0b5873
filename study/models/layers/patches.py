"""How a transformer cuts an image into tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from study.models.rewrites.cpu import Stem


@dataclass(frozen=True)
class Patches:
    """The tokens of a network's first block.

    Attributes:
        embedding: Name of the module that turns the image into tokens.
        size: Side of a patch in pixels. If several convolutions make the tokens, a token also sees pixels outside its
            patch, and `size` is equal to `stride`.
        stride: Distance in pixels between neighbouring patches.
        prefix: Number of tokens before the patches' tokens in the outputs of stages. These are class, distillation and
            register tokens.
    """

    embedding: str
    size: int
    stride: int
    prefix: int


def patches_of(network: nn.Module) -> Patches | None:
    """Return the patches of `network`; None if the network has no patches, or if its patches are not known."""
    kind = f"{type(network).__module__}.{type(network).__qualname__}"
    if kind in _NETWORKS:
        return _NETWORKS[kind](network)
    return _of_timm(network) if kind.startswith("timm.") else None


def _of_timm(network: Any) -> Patches | None:
    """Return the patches of a network of timm whose module `patch_embed` reads the image; None if they are unknown."""
    embedding, prefix = getattr(network, "patch_embed", None), _prefix(network)
    kind = type(embedding).__name__
    if prefix is None:
        return None
    if kind in ("PatchEmbed", "ConvEmbedding"):
        return _square("patch_embed", getattr(embedding, "proj", getattr(embedding, "conv", None)), prefix)
    return _equal("patch_embed", embedding.patch_size, prefix) if kind == "ConvPatchEmbed" and embedding else None


def _prefix(network: Any) -> int | None:
    """Return `Patches.prefix` of a network of timm; None if the place of the network's class token is unknown."""
    if type(network).__name__ in ("Cait", "Xcit"):
        # The class token is added after the last stage.
        return 0
    if type(network).__name__ == "ConVit":
        # The class token is added between two stages.
        return None
    found = getattr(network, "num_prefix_tokens", getattr(network, "num_tokens", None))
    if found is None:
        return None if hasattr(network, "cls_token") else 0
    return int(found)


def _square(name: str, convolution: Any, prefix: int) -> Patches | None:
    convolution = convolution.conv if isinstance(convolution, Stem) else convolution
    if not isinstance(convolution, nn.Conv2d) or convolution.kernel_size[0] != convolution.kernel_size[1]:
        return None
    return Patches(name, convolution.kernel_size[0], convolution.stride[0], prefix)


def _equal(name: str, size: int, prefix: int) -> Patches:
    return Patches(name, size, size, prefix)


def _visformer(network: Any) -> Patches:
    """Return the patches of a Visformer. Its stem, if it has one, halves the image."""
    stem = 1 if network.stem is None else 2
    return _equal("patch_embed1", stem * network.patch_embed1.patch_size[0], 0)


def _levit(network: Any) -> Patches:
    return _equal("stem", network.stem.stride, 0)


_NETWORKS: dict[str, Callable[[Any], Patches | None]] = {
    "torchvision.models.vision_transformer.VisionTransformer": lambda one: _equal("conv_proj", one.patch_size, 1),
    "torchvision.models.swin_transformer.SwinTransformer": lambda one: _square("features.0", one.features[0][0], 0),
    "timm.models.levit.Levit": _levit,
    "timm.models.levit.LevitDistilled": _levit,
    "timm.models.visformer.Visformer": _visformer,
    "timm.models.convmixer.ConvMixer": lambda one: _square("stem", one.stem[0], 0),
}
