"""What a model says at points around an image: images that are clipped to the pixel box and not rounded.

It is the model that is looked at, and no file: rounded to 8 bits, a plane a few pixel values wide would be steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from study.errors import StudyError
from study.models.classifier import Classifier
from study.reproducibility import numerics


def logits(
    model: Classifier,
    clean: NDArray[np.uint8],
    axes: NDArray[np.float64],
    places: Sequence[Sequence[float]],
    *,
    batch: int,
    device: str = "cpu",
) -> Iterator[NDArray[np.float32]]:
    """Logits (p, labels), pass by pass, at `places` (P, K) along `axes` (K, C, H, W) from the image `clean`.

    An axis has an RMSD of 1, so that places are RMSDs in pixel values as far as the pixel box does not cut them. All
    passes have one size, the last one padded. Raises StudyError where a logit is not finite.
    """
    # Copied: what comes from an object store is read-only, which torch warns of.
    origin = torch.tensor(clean, dtype=torch.float32, device=device)
    ways = torch.tensor(axes, dtype=torch.float32, device=device)
    where = torch.tensor(places, dtype=torch.float32, device=device)
    size = numerics.pass_size(batch, device)
    for start in range(0, len(where), size):
        part = where[start : start + size]
        padded = torch.cat([part, part[-1:].expand(size - len(part), -1)])
        moves = sum(padded[:, axis, None, None, None] * way for axis, way in enumerate(ways))
        images = (origin + moves).clamp(0, 255).contiguous(memory_format=model.memory_format)
        with torch.inference_mode():
            found = model.logits(images)[: len(part)].float().cpu().numpy()
        if not np.isfinite(found).all():
            raise StudyError(
                "what the model says of points around the image is not finite",
                todo="check the weights, preprocessing and precision of that model; no row of this unit was written",
            )
        yield found


def labels(
    model: Classifier,
    clean: NDArray[np.uint8],
    axes: NDArray[np.float64],
    places: Sequence[Sequence[float]],
    *,
    batch: int,
    device: str = "cpu",
) -> NDArray[np.int32]:
    """The most probable label (P,) at every place."""
    found = logits(model, clean, axes, places, batch=batch, device=device)
    return np.concatenate([one.argmax(1) for one in found]).astype(np.int32)
