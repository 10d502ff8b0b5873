"""What a target model says of finished images: its five most probable labels. No gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from study import numerics
from study.models.classifier import Classifier

TOP = 5


@dataclass(frozen=True)
class Prediction:
    """Labels (N, 5) `int32` and their probabilities (N, 5) `float32`, the most probable first."""

    top5: NDArray[np.int32]
    top5_prob: NDArray[np.float32]


def predict(model: Classifier, pixels: NDArray[np.uint8], *, batch: int, device: str = "cpu") -> Prediction:
    """Show `uint8` images (N, 3, H, W) to `model` in passes of one constant size, the last one padded."""
    labels, probabilities = [], []
    size = numerics.pass_size(batch, device)
    for start in range(0, len(pixels), size):
        part = pixels[start : start + size]
        whole = numerics.padded(len(part), size, device)
        padded = np.pad(part, [(0, whole - len(part)), (0, 0), (0, 0), (0, 0)], mode="edge")
        images = torch.from_numpy(padded).to(device).to(torch.float32, memory_format=model.memory_format)
        with torch.inference_mode():
            best = model(images).softmax(1).topk(TOP, dim=1)
        labels.append(best.indices[: len(part)].cpu().numpy().astype(np.int32))
        probabilities.append(best.values[: len(part)].cpu().numpy())
    return Prediction(np.concatenate(labels), np.concatenate(probabilities))
