"""What trainings of small networks share: reading data in MNIST's format, making batches, and writing weights files."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from study.errors import StudyError
from study.images import records
from study.models.networks import SIDE
from study.reproducibility.rng import draws

LABELS = 10
_AT_ONCE = 1000


@dataclass(frozen=True)
class TrainingData:
    """The images (N, 1, 28, 28) `uint8` and the labels (N,) of the training split and of the test split.

    `digest` is the SHA-256 of all these arrays.
    """

    pixels: Tensor
    labels: Tensor
    test_pixels: Tensor
    test_labels: Tensor
    digest: str

    def batches(self, batch: int, *key: object) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the training images, float (n, 1, 28, 28) in 0..1, and their labels (n,), in batches of `batch` images.

        `key` determines the random order of the images.
        """
        count = len(self.labels)
        order: NDArray[np.int64] = np.argsort(draws(count, *key), kind="stable")
        for start in range(0, count, batch):
            rows = torch.from_numpy(order[start : start + batch])
            yield self.pixels[rows] / 255, self.labels[rows]

    def steps(self, batch: int) -> int:
        """Return the number of batches in an epoch."""
        return math.ceil(len(self.labels) / batch)

    def accuracy(self, network: nn.Module) -> float:
        """Return the accuracy of a network on the test split, 0..1."""
        right = 0
        with torch.inference_mode():
            for start in range(0, len(self.test_labels), _AT_ONCE):
                rows = slice(start, start + _AT_ONCE)
                right += int((network(self.test_pixels[rows] / 255).argmax(1) == self.test_labels[rows]).sum())
        return right / len(self.test_labels)


def read_training_data(folder: Path) -> TrainingData:
    """Return the data in the IDX files of a folder. Raises StudyError if the data is not in MNIST's format."""
    pixels, labels = records.read(folder, "train")
    test_pixels, test_labels = records.read(folder, "test")
    hashed = hashlib.sha256()
    for part in (pixels, labels, test_pixels, test_labels):
        if part.ndim > 1 and part.shape[1:] != (1, SIDE, SIDE):
            raise StudyError(
                f"the images in {folder} have the shape {' x '.join(map(str, part.shape[1:]))}",
                accepted=f"grey images of {SIDE} x {SIDE} pixels, as in MNIST",
                todo="name a folder with IDX files in MNIST's format",
            )
        if part.ndim == 1 and part.max() >= LABELS:
            raise StudyError(
                f"{folder} has the label {part.max()}",
                accepted=f"labels 0 to {LABELS - 1}",
                todo="name a data set with ten classes",
            )
        hashed.update(f"{part.shape}".encode())
        hashed.update(part.data)
    # The arrays are copied, because torch does not accept read-only arrays.
    given, marks, shown, answers = (
        torch.from_numpy(part.copy()) for part in (pixels, labels, test_pixels, test_labels)
    )
    return TrainingData(given, marks, shown, answers, hashed.hexdigest())


def new_place(path: Path, what: str) -> Path:
    """Return `path`, and create its parent folder if necessary.

    `what` is "the file" or "this folder". Raises StudyError if `path` exists already or cannot be written.
    """
    if path.exists():
        raise StudyError(
            f"{path} exists already",
            todo=f"name another folder with --output; or delete {what}: studies that used it will then not resume",
        )
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(
            f"{folder} cannot be created: {error.strerror}", todo="name another folder with --output"
        ) from None
    if not os.access(folder, os.W_OK):
        raise StudyError(f"{folder} is not writable", todo="name another folder with --output")
    return path


def step(network: nn.Module, rule: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> float:
    """Train a network on one batch, and return the sum of its cross-entropy over the images."""
    loss = functional.cross_entropy(network(images), labels)
    rule.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    rule.step()
    return loss.item() * len(labels)


def mean_loss(losses: Sequence[float], images: int, called: str, epoch: int, learning_rate: float) -> float:
    """Return the mean loss of an epoch from the sums of its batches. Raises StudyError if it is not finite."""
    loss = sum(losses) / images
    if not math.isfinite(loss):
        raise StudyError(
            f"the training of {called} diverges: the loss is {loss} in epoch {epoch}",
            todo=f"train with a learning rate below {learning_rate:g}",
            status=1,
        )
    return loss


def save_weights(network: nn.Module, path: Path, record: dict[str, object]) -> None:
    """Write the weights file atomically.

    Its metadata has one key, because safetensors writes several keys in no fixed order.
    """
    from safetensors.torch import save

    content = save(network.state_dict(), metadata={"study": json.dumps(record, sort_keys=True)})
    away = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with away.open("wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        away.rename(path)
    except OSError as error:
        raise StudyError(
            f"{path} cannot be written: {error.strerror}", todo="free disk space and train again", status=1
        ) from None
    finally:
        away.unlink(missing_ok=True)
