"""Train the fully connected networks of the smoothed-gradient paper on MNIST, or on data in its format.

The authors published no weights for them, and they are small enough to train on any machine.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from study.errors import StudyError
from study.images import records
from study.models.networks import DEPTHS, SIDE, FullyConnected
from study.reproducibility.numerics import fix
from study.reproducibility.rng import draws

_LABELS = 10
_MOMENTUM = 0.9
_AT_ONCE = 1000


@dataclass(frozen=True)
class Trained:
    """A trained network: number of hidden layers, weights file, and test accuracy (0..1)."""

    depth: int
    path: Path
    accuracy: float


@dataclass(frozen=True)
class _Course:
    """The settings that, with the data, determine the weights. They are written into the weights file."""

    depth: int
    epochs: int
    batch: int
    learning_rate: float
    seed: int
    threads: int

    @property
    def network(self) -> str:
        return f"mnist_fnn{self.depth}"


@dataclass(frozen=True)
class _Data:
    """Images (N, 1, 28, 28) `uint8` and labels of both splits."""

    pixels: Tensor
    labels: Tensor
    test_pixels: Tensor
    test_labels: Tensor
    digest: str


def train(
    data: Path,
    depths: Sequence[int],
    output: Path,
    *,
    epochs: int = 5,
    batch: int = 100,
    learning_rate: float = 0.05,
    seed: int = 0,
    threads: int = 1,
    say: Callable[[str], None],
) -> list[Trained]:
    """Train a network of each of `depths` on the IDX files in `data`; write `mnist_fnn<depth>.safetensors` to `output`.

    The loss is cross-entropy; the optimiser is stochastic gradient descent with Nesterov momentum 0.9 in batches of
    `batch`; the learning rate falls from `learning_rate` to 0 along a half cosine. There is no augmentation, and the
    test split has no influence: the weights of the last epoch are kept. On one type of CPU, the same data, settings and
    version of torch give the same bytes. `say` receives loss and accuracy after every epoch.

    Raises StudyError if the data is not in MNIST's format, a weights file exists already, or training diverges. A
    failed or interrupted training writes no file.
    """
    courses = [_Course(depth, epochs, batch, learning_rate, seed, threads) for depth in dict.fromkeys(depths)]
    places = [_place(output, course) for course in courses]
    given = _read(data)
    fix(threads)
    done = []
    for course, path in zip(courses, places, strict=True):
        network, accuracy = _train(course, given, say)
        _save(network, path, {**asdict(course), "accuracy": accuracy, "data": given.digest})
        done.append(Trained(course.depth, path, accuracy))
    return done


def _place(output: Path, course: _Course) -> Path:
    """The path of the weights file. Raises StudyError before any training if it cannot be written."""
    if course.depth not in DEPTHS:
        raise StudyError(
            f"no network has {course.depth} hidden layers",
            accepted=", ".join(map(str, DEPTHS)),
        )
    path = output / f"{course.network}.safetensors"
    if path.exists():
        raise StudyError(
            f"{path} exists already",
            todo="name another folder with --output, or delete the file; studies that used it will then not resume",
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(
            f"{output} cannot be created: {error.strerror}", todo="name another folder with --output"
        ) from None
    if not os.access(output, os.W_OK):
        raise StudyError(f"{output} is not writable", todo="name another folder with --output")
    return path


def _read(folder: Path) -> _Data:
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
        if part.ndim == 1 and part.max() >= _LABELS:
            raise StudyError(
                f"{folder} has the label {part.max()}",
                accepted=f"labels 0 to {_LABELS - 1}",
                todo="name a data set with ten classes",
            )
        hashed.update(f"{part.shape}".encode())
        hashed.update(part.data)
    # Copies, because torch does not accept read-only arrays.
    given, marks, shown, answers = (
        torch.from_numpy(part.copy()) for part in (pixels, labels, test_pixels, test_labels)
    )
    return _Data(given, marks, shown, answers, hashed.hexdigest())


def _train(course: _Course, data: _Data, say: Callable[[str], None]) -> tuple[nn.Module, float]:
    first = int(draws(1, "training", course.network, course.seed, "weights")[0]) >> 1
    network = FullyConnected(course.depth, generator=torch.Generator().manual_seed(first))
    rule = torch.optim.SGD(network.parameters(), course.learning_rate, momentum=_MOMENTUM, nesterov=True)
    steps = course.epochs * math.ceil(len(data.labels) / course.batch)
    falling = torch.optim.lr_scheduler.LambdaLR(rule, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / steps))
    accuracy = 0.0
    for epoch in range(course.epochs):
        losses = []
        for rows in _batches(course, epoch, len(data.labels)):
            loss = functional.cross_entropy(network(data.pixels[rows] / 255), data.labels[rows])
            rule.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            rule.step()
            falling.step()
            losses.append(loss.item() * len(rows))
        loss_of_all = sum(losses) / len(data.labels)
        if not math.isfinite(loss_of_all):
            raise StudyError(
                f"the training of {course.network} diverges: the loss is {loss_of_all} in epoch {epoch + 1}",
                todo=f"train with a learning rate below {course.learning_rate:g}",
                status=1,
            )
        accuracy = _accuracy(network, data)
        say(
            f"{course.network}: epoch {epoch + 1} of {course.epochs}, loss {loss_of_all:.4f}, "
            f"test accuracy {100 * accuracy:.1f} %"
        )
    return network, accuracy


def _batches(course: _Course, epoch: int, count: int) -> Iterator[Tensor]:
    order: NDArray[np.int64] = np.argsort(
        draws(count, "training", course.network, course.seed, "order", epoch), kind="stable"
    )
    for start in range(0, count, course.batch):
        yield torch.from_numpy(order[start : start + course.batch])


def _accuracy(network: nn.Module, data: _Data) -> float:
    right = 0
    with torch.inference_mode():
        for start in range(0, len(data.test_labels), _AT_ONCE):
            rows = slice(start, start + _AT_ONCE)
            right += int((network(data.test_pixels[rows] / 255).argmax(1) == data.test_labels[rows]).sum())
    return right / len(data.test_labels)


def _save(network: nn.Module, path: Path, record: dict[str, object]) -> None:
    """Write the file atomically. Its metadata has one key: safetensors writes several keys in no fixed order."""
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
