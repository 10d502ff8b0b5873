"""Computes the logits and labels of a model at points around an image.

Pixel values are clipped to 0..255, but not rounded to integers. With rounding, many points of a plane that spans only
a few pixel values would become the same image.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.errors import StudyError
from study.events.repairs import repaired
from study.models.classifier import Classifier
from study.models.device_errors import OutOfMemory, attempt, halved
from study.reproducibility import numerics
from study.reproducibility.numerics import Precision


def logits(
    model: Classifier,
    clean: NDArray[np.uint8],
    axes: NDArray[np.float64],
    points: Sequence[Sequence[float]],
    *,
    batch: int,
    device: str = "cpu",
    precision: Precision = "float32",
) -> Iterator[NDArray[np.float32]]:
    """Yield the logits at P points around the image `clean`, one batch of points after another.

    `axes` (K, C, H, W): K directions with an RMSD of 1. `points` (P, K): the coordinates of the points along the axes,
    as RMSDs in pixel values, before pixel values are clipped to 0..255. The logits of a batch of p points are an array
    (p, number of labels). All batches have the same size. The last batch is padded, but the logits of its padding are
    not returned. If memory runs out, later batches are halved. Raises StudyError if a logit is not finite.
    """
    # `torch.tensor` copies. Images from Ray's object store are read-only, and torch warns about read-only arrays.
    origin = torch.tensor(clean, dtype=torch.float32, device=device)
    directions = torch.tensor(axes, dtype=torch.float32, device=device)
    where = torch.tensor(points, dtype=torch.float32, device=device)
    size = numerics.pass_size(batch, device)
    if precision == "bfloat16":
        model = model.in_precision(precision)
    start = 0
    while start < len(where):
        part = where[start : start + size]
        found = attempt(functools.partial(_pass, model, origin, directions, part, size=size, precision=precision))
        if isinstance(found, OutOfMemory):
            size = halved(size, found)
            repaired("memory", f"a probe's predictions: memory ran out; from now on, a batch has {size} images")
            continue
        start += len(part)
        if not np.isfinite(found).all():
            raise StudyError(
                "a logit at a point around the image is not finite",
                todo="check the weights, preprocessing and precision of the model; no row of this unit was written",
            )
        yield found


def _pass(
    model: Classifier,
    origin: Tensor,
    directions: Tensor,
    part: Tensor,
    *,
    size: int,
    precision: Precision,
) -> NDArray[np.float32]:
    """Return the logits (p, labels) at the points `part` (p, K), computed in one batch padded to `size` images."""
    padded = torch.cat([part, part[-1:].expand(size - len(part), -1)])
    moves = sum(padded[:, axis, None, None, None] * direction for axis, direction in enumerate(directions))
    images = (origin + moves).clamp(0, 255).contiguous(memory_format=model.memory_format)
    device = origin.device.type
    with torch.inference_mode(), numerics.network_pass(precision, device), numerics.autocast(precision, device):
        return model.logits(images)[: len(part)].float().cpu().numpy()


def labels(
    model: Classifier,
    clean: NDArray[np.uint8],
    axes: NDArray[np.float64],
    points: Sequence[Sequence[float]],
    *,
    batch: int,
    device: str = "cpu",
    precision: Precision = "float32",
) -> NDArray[np.int32]:
    """Return the most probable label at every point, (P,). Arguments and errors are those of `logits`."""
    found = logits(model, clean, axes, points, batch=batch, device=device, precision=precision)
    return np.concatenate([one.argmax(1) for one in found]).astype(np.int32)
