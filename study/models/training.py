"""Train small networks on MNIST, or on data in its format.

The fully connected networks are those of the smoothed-gradient paper, whose authors published no weights. The small CNN
and the small ViT are targets that any machine can train. After plain training they are undefended targets, and after
adversarial training they are defended targets.
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

from study.errors import StudyError, names
from study.images import records
from study.models.adversarial_training import PGD, worst
from study.models.networks import DEPTHS, SIDE, FullyConnected
from study.models.small_networks import SMALL_NETWORKS, drawn
from study.reproducibility.numerics import fix
from study.reproducibility.rng import draws

FULLY_CONNECTED = {f"mnist_fnn{depth}": depth for depth in DEPTHS}
"""For each fully connected network, its number of hidden layers."""

TRAINABLE = (*FULLY_CONNECTED, *SMALL_NETWORKS)
"""The names of the networks that `train` accepts."""

_LABELS = 10
_MOMENTUM = 0.9
_AT_ONCE = 1000
_JUDGED_BY = 20
"""The number of steps of the attack that measures robust accuracy."""


@dataclass(frozen=True)
class Trained:
    """A trained network: its name, weights file, and test accuracy (0..1).

    After adversarial training, `robust` is the accuracy (0..1) on the first 1,000 test images under the attack of the
    training, but with 20 steps. After plain training, `robust` is None.
    """

    network: str
    path: Path
    accuracy: float
    robust: float | None = None


@dataclass(frozen=True)
class _Course:
    """The settings of the training of one network.

    The settings and the data determine the weights. The weights file records the settings.
    """

    network: str
    epochs: int
    batch: int
    learning_rate: float
    seed: int
    threads: int
    adversarial: PGD | None = None

    @property
    def called(self) -> str:
        """The name of the weights file without its suffix. The random numbers of the training depend on this name."""
        return self.network if self.adversarial is None else f"{self.network}_adversarial"

    def record(self) -> dict[str, object]:
        found = asdict(self)
        if self.network in FULLY_CONNECTED:
            found["depth"] = FULLY_CONNECTED[found.pop("network")]
        if self.adversarial is None:
            del found["adversarial"]
        return found

    def drawn(self, *purpose: object) -> int:
        """Return a seed for a torch generator. It depends on `purpose` and on the name and the seed of the training."""
        return int(draws(1, "training", self.called, self.seed, *purpose)[0]) >> 1


@dataclass(frozen=True)
class _Data:
    """The images (N, 1, 28, 28) `uint8` and the labels (N,) of the training split and of the test split.

    `digest` is the SHA-256 of all these arrays.
    """

    pixels: Tensor
    labels: Tensor
    test_pixels: Tensor
    test_labels: Tensor
    digest: str


def train(
    data: Path,
    networks: Sequence[str],
    output: Path,
    *,
    epochs: int = 5,
    batch: int = 100,
    learning_rate: float | None = None,
    adversarial: PGD | None = None,
    seed: int = 0,
    threads: int = 1,
    say: Callable[[str], None],
) -> list[Trained]:
    """Train each of `networks` on the IDX files in `data`, and write `<network>.safetensors` to `output`.

    The loss is cross-entropy, in batches of `batch` images. Fully connected networks are trained by stochastic gradient
    descent with Nesterov momentum 0.9. The CNN and the ViT are trained by Adam. The initial learning rate is
    `learning_rate` (None: 0.05, or 0.002 for Adam), and falls to 0 along a half cosine. There is no augmentation. The
    test split has no influence on the weights, because the weights of the last epoch are kept.

    With `adversarial`, adversarial images of this attack replace the images of every batch, and the file is
    `<network>_adversarial.safetensors`. On one type of CPU, the same data, settings and version of torch give the same
    bytes. `say` receives loss and accuracy after every epoch.

    Raises StudyError if the data is not in MNIST's format, if a weights file exists already, or if training diverges. A
    failed or interrupted training writes no file.
    """
    courses = [
        _Course(network, epochs, batch, learning_rate or _first_rate(network), seed, threads, adversarial)
        for network in dict.fromkeys(networks)
    ]
    places = [_place(output, course) for course in courses]
    given = _read(data)
    fix(threads)
    done = []
    for course, path in zip(courses, places, strict=True):
        network, accuracy = _train(course, given, say)
        robust = None if adversarial is None else _robust(network, given, course)
        measured = {"accuracy": accuracy} | ({} if robust is None else {"robust": robust})
        _save(network, path, {**course.record(), **measured, "data": given.digest})
        done.append(Trained(course.network, path, accuracy, robust))
    return done


def _first_rate(network: str) -> float:
    return 0.05 if network in FULLY_CONNECTED else 0.002


def _place(output: Path, course: _Course) -> Path:
    """Return the path of the weights file.

    Raises StudyError if the network is unknown, or if the file exists already or cannot be written.
    """
    if course.network not in TRAINABLE:
        raise StudyError(f"`study train` cannot train '{course.network}'", accepted=names(TRAINABLE, course.network))
    path = output / f"{course.called}.safetensors"
    if path.exists():
        raise StudyError(
            f"{path} exists already",
            todo="name another folder with --output; or delete the file: studies that used it will then not resume",
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
    # The arrays are copied, because torch does not accept read-only arrays.
    given, marks, shown, answers = (
        torch.from_numpy(part.copy()) for part in (pixels, labels, test_pixels, test_labels)
    )
    return _Data(given, marks, shown, answers, hashed.hexdigest())


def _train(course: _Course, data: _Data, say: Callable[[str], None]) -> tuple[nn.Module, float]:
    network, rule = _begun(course)
    steps = course.epochs * math.ceil(len(data.labels) / course.batch)
    falling = torch.optim.lr_scheduler.LambdaLR(rule, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / steps))
    accuracy = 0.0
    for epoch in range(course.epochs):
        losses = []
        for number, rows in enumerate(_batches(course, epoch, len(data.labels))):
            images, labels = data.pixels[rows] / 255, data.labels[rows]
            if course.adversarial is not None:
                images = worst(network, images, labels, course.adversarial, course.drawn("start", epoch, number))
            loss = functional.cross_entropy(network(images), labels)
            rule.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            rule.step()
            falling.step()
            losses.append(loss.item() * len(rows))
        loss_of_all = sum(losses) / len(data.labels)
        if not math.isfinite(loss_of_all):
            raise StudyError(
                f"the training of {course.called} diverges: the loss is {loss_of_all} in epoch {epoch + 1}",
                todo=f"train with a learning rate below {course.learning_rate:g}",
                status=1,
            )
        accuracy = _accuracy(network, data)
        say(
            f"{course.called}: epoch {epoch + 1} of {course.epochs}, loss {loss_of_all:.4f}, "
            f"test accuracy {100 * accuracy:.1f} %"
        )
    return network, accuracy


def _begun(course: _Course) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return the network with its initial weights, and its optimiser."""
    first = course.drawn("weights")
    depth = FULLY_CONNECTED.get(course.network)
    if depth is None:
        network = drawn(course.network, first)
        return network, torch.optim.Adam(network.parameters(), course.learning_rate)
    network = FullyConnected(depth, generator=torch.Generator().manual_seed(first))
    rate = course.learning_rate
    return network, torch.optim.SGD(network.parameters(), rate, momentum=_MOMENTUM, nesterov=True)


def _robust(network: nn.Module, data: _Data, course: _Course) -> float:
    """Return the accuracy on the first test images under the attack of the training, but with `_JUDGED_BY` steps."""
    assert course.adversarial is not None, "only adversarial training has an attack"
    images, labels = data.test_pixels[:_AT_ONCE] / 255, data.test_labels[:_AT_ONCE]
    attack = PGD(course.adversarial.epsilon, _JUDGED_BY)
    found = worst(network, images, labels, attack, course.drawn("judged"))
    with torch.inference_mode():
        return float((network(found).argmax(1) == labels).double().mean())


def _batches(course: _Course, epoch: int, count: int) -> Iterator[Tensor]:
    order: NDArray[np.int64] = np.argsort(
        draws(count, "training", course.called, course.seed, "order", epoch), kind="stable"
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
