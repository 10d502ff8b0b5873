"""A model of images and text as its library builds it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from study.models.classifier import Preprocessing


@dataclass(frozen=True)
class Towers:
    """A model of images and text, as its library builds it.

    Attributes:
        whole: All of it, with the names of its tensors in files.
        image: Its image encoder: normalised images (N, 3, H, W) -> embeddings (N, width).
        text: Its text encoder: texts -> embeddings (texts, width).
        width: The width of an embedding.
        scale: The factor of cosines in its logits, and what is added to them.
        preprocessing: The library's record of its input.
    """

    whole: nn.Module
    image: nn.Module
    text: Callable[[Sequence[str]], Tensor]
    width: int
    scale: Callable[[], tuple[float, float]]
    preprocessing: Preprocessing
