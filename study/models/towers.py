"""The parts of a model of images and text, such as CLIP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from study.models.classifier import Preprocessing


@dataclass(frozen=True)
class Towers:
    """The parts of a model of images and text, as the model's library builds them.

    Attributes:
        whole: The whole model. Its tensors have the same names as in weights files.
        image: The image encoder, which maps normalised images (N, 3, H, W) to embeddings (N, width).
        text: The text encoder, which maps texts to embeddings (number of texts, width).
        width: The number of entries of an embedding.
        scale: A function that returns a factor and a bias. A logit is factor * cosine + bias, with the cosine of the
            image's embedding and the text's embedding.
        preprocessing: The preprocessing of images that the library records for the model.
    """

    whole: nn.Module
    image: nn.Module
    text: Callable[[Sequence[str]], Tensor]
    width: int
    scale: Callable[[], tuple[float, float]]
    preprocessing: Preprocessing
