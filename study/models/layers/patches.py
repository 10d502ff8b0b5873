"""How a transformer cuts an image into tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Patches:
    """The tokens of a network's first block.

    Attributes:
        embedding: Name of the module that makes tokens of the image.
        size: Side of a patch in pixels. Where several convolutions make tokens, it is `stride`: they overlap.
        stride: Distance in pixels between neighbouring patches.
        prefix: Number of tokens before those of patches in the outputs of the stages: class, distillation, registers.
    """

    embedding: str
    size: int
    stride: int
    prefix: int


def patches_of(network: nn.Module) -> Patches | None:
    """The patches of `network`; None if it has none, or they are not known."""
    known: Any = network
    kind = f"{type(network).__module__}.{type(network).__qualname__}"
    if kind == "torchvision.models.vision_transformer.VisionTransformer":
        return Patches("conv_proj", known.patch_size, known.patch_size, 1)
    if kind == "torchvision.models.swin_transformer.SwinTransformer":
        return _square("features.0", known.features[0][0], 0)
    if kind == "timm.models.levit.Levit" or kind == "timm.models.levit.LevitDistilled":
        return Patches("stem", known.stem.stride, known.stem.stride, 0)
    if kind == "timm.models.visformer.Visformer":
        before = 2 if known.stem is not None else 1
        side = before * known.patch_embed1.patch_size[0]
        return Patches("patch_embed1", side, side, 0)
    if kind == "timm.models.convmixer.ConvMixer":
        return _square("stem", known.stem[0], 0)
    embedding = getattr(network, "patch_embed", None)
    if not kind.startswith("timm.") or embedding is None:
        return None
    prefix = _prefix(network)
    if type(embedding).__name__ in ("PatchEmbed", "ConvEmbedding") and prefix is not None:
        convolution = getattr(embedding, "proj", getattr(embedding, "conv", None))
        return _square("patch_embed", convolution, prefix)
    if type(embedding).__name__ == "ConvPatchEmbed" and prefix is not None:
        return Patches("patch_embed", embedding.patch_size, embedding.patch_size, prefix)
    return None


def _square(name: str, convolution: Any, prefix: int) -> Patches | None:
    if not isinstance(convolution, nn.Conv2d) or convolution.kernel_size[0] != convolution.kernel_size[1]:
        return None
    return Patches(name, convolution.kernel_size[0], convolution.stride[0], prefix)


def _prefix(network: Any) -> int | None:
    kind = type(network).__name__
    if kind in ("Cait", "Xcit"):
        # The class token joins after the last stage.
        return 0
    if kind == "PoolingVisionTransformer":
        return int(network.num_tokens)
    if hasattr(network, "num_prefix_tokens"):
        return int(network.num_prefix_tokens)
    return None if hasattr(network, "cls_token") else 0
