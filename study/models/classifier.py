"""A network with its preprocessing and its label map: pixels in, logits over the study's label set out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Preprocessing:
    """How a network wants its input: (x / scale - mean) / std at `size` pixels, channels as named."""

    size: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float = 255.0
    channels: str = "RGB"


class Classifier(nn.Module):
    """Float pixels (N, 3, H, W), RGB in 0..255 at an image set's own size -> logits (N, labels), differentiable.

    Images of another size are resized to the network's, antialiased where they shrink. A network with one class
    more than the label set has the background class first (TensorFlow's ImageNet models); its logit is left out.
    Always in eval mode, no parameter requires a gradient.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, *, labels: int, identity: str) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.preprocessing = preprocessing
        self.labels = labels
        self.digest = _digest(network, preprocessing, identity)
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)
        self.eval()

    def describe(self) -> dict[str, Any]:
        """What is recorded of the model with a run: digest, number of parameters, preprocessing."""
        count = sum(parameter.numel() for parameter in self.network.parameters())
        return {"digest": self.digest, "parameters": count, **asdict(self.preprocessing)}

    def forward(self, pixels: Tensor) -> Tensor:
        wanted = self.preprocessing
        if pixels.shape[-2:] != (wanted.size, wanted.size):
            smooth = wanted.interpolation in ("bilinear", "bicubic")
            pixels = nn.functional.interpolate(
                pixels, (wanted.size, wanted.size), mode=wanted.interpolation, antialias=smooth
            )
        if wanted.channels == "BGR":
            pixels = pixels.flip(1)
        logits: Tensor = self.network((pixels / wanted.scale - self.mean) / self.std)
        return logits[:, logits.shape[1] - self.labels :]


def _digest(network: nn.Module, preprocessing: Preprocessing, identity: str) -> str:
    """SHA-256 over every tensor of the network by name, its preprocessing and what it is called."""
    hashed = hashlib.sha256(json.dumps([identity, asdict(preprocessing)]).encode())
    for name, tensor in sorted(network.state_dict().items()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hashed.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return hashed.hexdigest()
