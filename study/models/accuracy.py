"""Measure the accuracy of a model on images prepared as the model's zoo prepares them, or as a study prepares them.

Zoos publish the accuracy with their own preparation. If the measured value equals the published value, then weights,
preprocessing and labels are right. With a study's preparation, all models share one image set of one size, and images
are resized for each model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from study.defences.stages import Shown, Stages
from study.images import decoding
from study.images.image_sets import Candidate, ImageSet
from study.images.labels import ABSTAINED
from study.models.classifier import Classifier, Native
from study.models.predict import predict
from study.reproducibility.numerics import Precision

_AT_ONCE = 64
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class Accuracy:
    """The top-1 and top-5 accuracy of a model (0..1), and the number of `images` of the measurement."""

    images: int
    top1: float
    top5: float


Prepare = Callable[[Candidate], NDArray[np.uint8]]


def measure(
    model: Classifier,
    candidates: Sequence[Candidate],
    prepare: Prepare,
    *,
    batch: int,
    device: str = "cpu",
    precision: Precision = "float32",
    stages: Stages | None = None,
    key: tuple[object, ...] = (),
    advance: Callable[[int], None],
) -> Accuracy:
    """Return the accuracy of `model` on the images `candidates`. The model is on `device` and computes in `precision`.

    `prepare` turns a candidate into `uint8` pixels (C, S, S). `batch` is the batch size. `stages` are the stages of the
    model's `transform`; their random numbers depend on `key` and the image's id, as in a study. `advance` is called
    with the number of images since its last call. Raises StudyError if an image cannot be read, or if a probability is
    not finite.
    """
    first = five = 0
    with ThreadPoolExecutor() as threads:
        for start in range(0, len(candidates), _AT_ONCE):
            part = candidates[start : start + _AT_ONCE]
            pixels_of = np.stack(list(threads.map(prepare, part)))
            images, labels = [one.image for one in part], np.array([one.label for one in part])
            if stages is None:
                said = predict(model, pixels_of, batch=batch, device=device, precision=precision, images=images)
            else:
                said = stages.predict(model, Shown(pixels_of, images, key), batch=batch, precision=precision)
            right = said.top1 == labels
            among = (said.top5 == labels[:, None]).any(1) & (said.top1 != ABSTAINED)
            first, five = first + int(right.sum()), five + int(among.sum())
            advance(len(part))
    return Accuracy(len(candidates), first / len(candidates), five / len(candidates))


def as_the_zoo(native: Native, channels: int) -> Prepare:
    """Return a function that prepares an image with the zoo's own resize, crop and interpolation, as `uint8` pixels."""

    def prepare(one: Candidate) -> NDArray[np.uint8]:
        return decoding.array(native_view(decoding.decode(one.file, channels), native))

    return prepare


def as_the_study(images: ImageSet) -> Prepare:
    """Return a function that prepares an image as a study does, as `uint8` pixels."""

    def prepare(one: Candidate) -> NDArray[np.uint8]:
        return decoding.read(one.file, images)

    return prepare


def native_view(image: Image.Image, native: Native) -> Image.Image:
    """Return `image` resized and cropped as `native` says.

    If the crop is larger than the resized image, the result has a black border.
    """
    how = _RESAMPLING[native.interpolation]
    side = min(image.size) if native.mode == "crop" else max(image.size)
    width, height = (max(1, native.resize * one // side) for one in image.size)
    if native.mode == "squash":
        width = height = native.resize
    resized = image if image.size == (width, height) else image.resize((width, height), how)
    left, top = round((width - native.crop) / 2), round((height - native.crop) / 2)
    return resized.crop((left, top, left + native.crop, top + native.crop))
