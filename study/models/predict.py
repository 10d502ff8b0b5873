"""Predictions of a model for finished images: the five most probable labels, without gradients."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.errors import StudyError
from study.models.classifier import Classifier
from study.models.device_errors import OutOfMemory, attempt, halved
from study.reproducibility import numerics
from study.reproducibility.numerics import Precision

TOP = 5
_NAMED = 5


@dataclass(frozen=True)
class Prediction:
    """Labels (N, K) `int32` and their probabilities (N, K) `float32`, most probable first; K is 5, or the number of
    labels if that is smaller. `whole` holds all probabilities (N, labels) `float32` if they were requested.

    `size` is the final number of images in one pass: smaller than requested if memory ran out.
    """

    top5: NDArray[np.int32]
    top5_prob: NDArray[np.float32]
    whole: NDArray[np.float32] | None
    size: int


def predict(
    model: Classifier,
    pixels: NDArray[np.uint8],
    *,
    batch: int,
    device: str = "cpu",
    precision: Precision = "float32",
    whole: bool = False,
    name: str = "the model",
    images: Sequence[str] = (),
) -> Prediction:
    """Classify `uint8` images (N, C, H, W) in passes of one constant size; the last pass is padded.

    The network computes in `precision`, and probabilities follow from its logits in float32.

    If the device's memory is too small, passes are halved, which changes rounding. Raises StudyError if memory is too
    small for one image, or if a probability is not finite. The message has the `name` of the model and the ids of
    `images`; `pixels` may hold several versions of all images, one after the other.
    """
    labels, probabilities, all_of_them = [], [], []
    size = numerics.pass_size(batch, device)
    if precision == "bfloat16":
        model = model.in_precision(precision)
    start = 0
    while start < len(pixels):
        part = pixels[start : start + size]
        shown = attempt(functools.partial(_pass, model, part, size, device, precision))
        if isinstance(shown, OutOfMemory):
            size = halved(size, shown)
            continue
        found, best = shown
        broken = (~best.values[: len(part)].isfinite().all(1)).nonzero().flatten().tolist()
        if broken:
            raise _not_finite(name, [start + one for one in broken], images)
        start += len(part)
        labels.append(best.indices[: len(part)].cpu().numpy().astype(np.int32))
        probabilities.append(best.values[: len(part)].cpu().numpy())
        if whole:
            all_of_them.append(found[: len(part)].float().cpu().numpy())
    every = np.concatenate(all_of_them) if whole else None
    return Prediction(np.concatenate(labels), np.concatenate(probabilities), every, size)


def _pass(
    model: Classifier, part: NDArray[np.uint8], size: int, device: str, precision: Precision
) -> tuple[Tensor, torch.return_types.topk]:
    """All probabilities, and the highest ones; both include the padding."""
    padded = np.pad(part, [(0, size - len(part)), (0, 0), (0, 0), (0, 0)], mode="edge")
    images = torch.from_numpy(padded).to(device).to(torch.float32, memory_format=model.memory_format)
    with torch.inference_mode(), numerics.network_pass(precision):
        with numerics.autocast(precision, device):
            logits = model.logits(images)
        found = (logits.float() if logits.dtype == torch.bfloat16 else logits).softmax(1)
        return found, found.topk(min(TOP, found.shape[1]), dim=1)


def _not_finite(name: str, places: Sequence[int], images: Sequence[str]) -> StudyError:
    ids = dict.fromkeys(images[one % len(images)] if images else f"number {one}" for one in places)
    shown = ", ".join([*list(ids)[:_NAMED], *([f"{len(ids) - _NAMED} more"] if len(ids) > _NAMED else [])])
    return StudyError(
        f"the probabilities of {name} for {shown} are not finite",
        todo="check the weights, preprocessing and precision of this model; no rows were written for these images",
    )
