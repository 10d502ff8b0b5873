"""Wraps a caller's model as a source model of an attack. A source model takes pixels 0..255 and returns logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from study.attacks.door_images import Statistic
from study.errors import StudyError
from study.models.classifier import Classifier


class ScaledModel(nn.Module):
    """A source model that wraps the network of a caller.

    It takes pixels (N, C, H, W), floats in 0..255, and returns logits (N, classes). The pixels are scaled to 0..1. If
    `mean` and `std` are given, the scaled pixels x are normalised as (x - mean) / std.
    """

    def __init__(self, network: nn.Module, mean: Statistic | None, std: Statistic | None) -> None:
        super().__init__()
        self.network = network
        first = next(iter([*network.parameters(), *network.buffers()]), torch.zeros(0))
        self.device = str(first.device)
        self._dtype = first.dtype if first.is_floating_point() else torch.float32
        self._mean = None if mean is None else _column(mean, first.device, self._dtype)
        self._std = None if std is None else _column(std, first.device, self._dtype)

    def forward(self, pixels: Tensor) -> Tensor:
        images = pixels.to(self._dtype) / 255
        if self._mean is not None and self._std is not None:
            images = (images - self._mean) / self._std
        logits: Any = self.network(images)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            shown = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise StudyError(
                f"the model {type(self.network).__name__} returned {shown}",
                where="model",
                accepted="logits (N, classes)",
                todo="wrap the model in a module that returns its logits alone",
            )
        return logits


class PixelModel(nn.Module):
    """A source model that wraps a classifier of this project. The classifier itself takes pixel values 0..255."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.network = classifier
        self.device = str(classifier.mean.device)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network(pixels)
        return logits


SourceModel = ScaledModel | PixelModel


def scaled(model: nn.Module, mean: Statistic | None, std: Statistic | None) -> SourceModel:
    """Return `model` as a source model. Raises StudyError if `model` is no torch module, or is in training mode.

    `mean` and `std`: the normalisation of images in 0..1 that the model expects; None: no normalisation.
    """
    if not isinstance(model, nn.Module):
        raise StudyError(
            f"a model must be a torch module, but this is {type(model).__name__}",
            where="model",
            accepted="a torch.nn.Module that returns logits (N, classes), or a list of them",
        )
    if any(one.training for one in model.modules()):
        raise StudyError(
            f"the model {type(model).__name__} is in training mode: its output depends on the other images of a batch",
            where="model",
            todo="call model.eval() first",
        )
    return PixelModel(model) if isinstance(model, Classifier) else ScaledModel(model, mean, std)


def _column(given: Statistic, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.as_tensor(given, dtype=dtype, device=device).reshape(1, -1, 1, 1)
