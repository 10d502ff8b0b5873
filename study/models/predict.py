"""Predictions of a model for `uint8` images: the five most probable labels, without gradients."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.devices.copies import Download, uploaded
from study.errors import StudyError
from study.images.labels import ABSTAINED
from study.models.classifier import Classifier
from study.models.device_errors import OutOfMemory, attempt, halved
from study.reproducibility import numerics
from study.reproducibility.numerics import Precision

TOP = 5
_NAMED = 5


@dataclass(frozen=True)
class Prediction:
    """The most probable labels (N, K) `int32`, most probable first, and their probabilities (N, K) `float32`.

    K is 5, or the number of labels if there are fewer than 5. `whole` has all probabilities (N, number of labels)
    `float32`; None if they were not requested. `size` is the number of images in one forward pass, which is smaller
    than requested if memory ran out. `abstained` (N,) says for which images a defence with a vote gives no answer; None
    if every image has an answer.
    """

    top5: NDArray[np.int32]
    top5_prob: NDArray[np.float32]
    whole: NDArray[np.float32] | None
    size: int
    abstained: NDArray[np.bool_] | None = None

    @property
    def top1(self) -> NDArray[np.int32]:
        """The answer for each image (N,): the most probable label, or ABSTAINED."""
        return top1(self.top5, self.abstained)


def top1(top5: NDArray[np.int32], abstained: NDArray[np.bool_] | None) -> NDArray[np.int32]:
    """Return the answer for each image (N,): the first label in the image's row of `top5` (N, K), with K at least 1.

    The answer is ABSTAINED for images for which `abstained` (N,) is true.
    """
    first: NDArray[np.int32] = top5[:, 0] if abstained is None else np.where(abstained, ABSTAINED, top5[:, 0])
    return first


def best_of(counts: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the labels (N, K) with the highest `counts` (N, number of labels), highest count first.

    K is 5, or the number of labels if there are fewer than 5. Among equal counts, the lower label comes first.
    """
    return np.argsort(-counts, axis=1, kind="stable")[:, :TOP].astype(np.int32)


def predict(
    model: Classifier,
    pixels: NDArray[np.uint8] | Tensor,
    *,
    batch: int,
    device: str = "cpu",
    precision: Precision = "float32",
    whole: bool = False,
    name: str = "the model",
    images: Sequence[str] = (),
) -> Prediction:
    """Return the predictions of `model` for the `uint8` images `pixels` (N, C, H, W).

    `pixels` are an array on the host, or a tensor on `device`, which several models can share. `pixels` may contain
    several versions of all images, one version after the other. `images` are the ids of the images of one version.

    `numerics.pass_size` derives the number of images in a forward pass from `batch`. All passes have the same size, and
    the last pass is padded. The network computes in `precision`, and the softmax of its logits is computed in float32.
    With `whole`, the result has the probabilities of all labels.

    If the device's memory is too small, the size of the passes is halved, which changes rounding. Raises StudyError if
    memory is too small for one image, or if a probability is not finite. The message has the `name` of the model and
    the ids of the images.
    """
    sent: list[Download] = []
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
        start += len(part)
        own = slice(len(part))
        wanted = [found[own].float()] if whole else []
        # The host reads all answers at the end, so that the device does not wait for the host between two passes.
        sent.append(Download(best.indices[own].to(torch.int32), best.values[own], *wanted))
    labels, probabilities, *every = (
        np.concatenate(parts) for parts in zip(*(one.arrays() for one in sent), strict=True)
    )
    broken = np.flatnonzero(~np.isfinite(probabilities).all(1)).tolist()
    if broken:
        raise not_finite(name, broken, images)
    return Prediction(labels, probabilities, every[0] if whole else None, size)


def _pass(
    model: Classifier, part: NDArray[np.uint8] | Tensor, size: int, device: str, precision: Precision
) -> tuple[Tensor, torch.return_types.topk]:
    """Return all probabilities of one forward pass, and the highest probabilities with their labels.

    Both results also have rows for the padding.
    """
    held = part if isinstance(part, Tensor) else uploaded(part, device)
    if len(held) < size:
        held = torch.cat([held, held[-1:].expand(size - len(held), -1, -1, -1)])
    images = held.to(torch.float32, memory_format=model.memory_format)
    with torch.inference_mode(), numerics.network_pass(precision, device):
        with numerics.autocast(precision, device):
            logits = model.logits(images)
        found = (logits.float() if logits.dtype == torch.bfloat16 else logits).softmax(1)
        return found, found.topk(min(TOP, found.shape[1]), dim=1)


def answers(model: Classifier, images: Tensor, device: str, precision: Precision) -> Tensor:
    """Return the most probable label of each float image (N, C, H, W), `int32` (N,); -1 if the logits are not finite.

    `model` must come from `Classifier.in_precision(precision)`. All `images` are on `device` and form one forward pass.
    """
    held = images.contiguous(memory_format=model.memory_format)
    with torch.inference_mode(), numerics.network_pass(precision, device):
        with numerics.autocast(precision, device):
            logits = model.logits(held)
        logits = logits.float() if logits.dtype == torch.bfloat16 else logits
        return torch.where(logits.isfinite().all(1), logits.argmax(1), -1).to(torch.int32)


def not_finite(name: str, places: Sequence[int], images: Sequence[str], what: str = "probabilities") -> StudyError:
    """Return the error for values of the model `name` that are not finite for some images.

    `what` names these values, such as "probabilities". `places` are the positions of these images among all versions of
    all images. `images` are the ids of the images of one version. If `images` is empty, the message has positions in
    place of ids.
    """
    ids = dict.fromkeys(images[one % len(images)] if images else f"number {one}" for one in places)
    shown = ", ".join([*list(ids)[:_NAMED], *([f"{len(ids) - _NAMED} more"] if len(ids) > _NAMED else [])])
    return StudyError(
        f"the {what} of {name} for {shown} are not finite",
        todo="check the weights, preprocessing and precision of this model; no rows were written for these images",
    )
