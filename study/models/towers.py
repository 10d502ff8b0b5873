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
        whole: The whole model. Its tensors have the same names as in weights files.
        image: The image encoder: normalised images (N, 3, H, W) -> embeddings (N, width).
        text: The text encoder: texts -> embeddings (texts, width).
        width: The width of an embedding.
        scale: Returns the factor by which logits multiply cosines, and the bias that they add.
        preprocessing: The library's record of the model's input.
    """

    whole: nn.Module
    image: nn.Module
    text: Callable[[Sequence[str]], Tensor]
    width: int
    scale: Callable[[], tuple[float, float]]
    preprocessing: Preprocessing
