"""Train small networks on MNIST, or on data in its format.

The fully connected networks are those of the smoothed-gradient paper, whose authors published no weights. The small CNN
and the small ViT are targets that any machine can train. After plain training they are undefended targets, and after
adversarial training they are defended targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from study.errors import StudyError, names
from study.models.adversarial_training import PGD, worst
from study.models.networks import DEPTHS, FullyConnected
from study.models.small_networks import SMALL_NETWORKS, drawn
from study.models.training_data import TrainingData, mean_loss, new_place, read_training_data, save_weights, step
from study.reproducibility.numerics import fix
from study.reproducibility.rng import draws

FULLY_CONNECTED = {f"mnist_fnn{depth}": depth for depth in DEPTHS}
"""For each fully connected network, its number of hidden layers."""

TRAINABLE = (*FULLY_CONNECTED, *SMALL_NETWORKS)
"""The names of the networks that `train` accepts."""

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
    failed or interrupted training of a network writes no file. Files of networks that were trained before it stay.
    """
    courses = [
        _Course(network, epochs, batch, learning_rate or _first_rate(network), seed, threads, adversarial)
        for network in dict.fromkeys(networks)
    ]
    places = [_place(output, course) for course in courses]
    given = read_training_data(data)
    fix(threads)
    done = []
    for course, path in zip(courses, places, strict=True):
        network, accuracy = _train(course, given, say)
        robust = None if adversarial is None else _robust(network, given, course)
        measured = {"accuracy": accuracy} | ({} if robust is None else {"robust": robust})
        save_weights(network, path, {**course.record(), **measured, "data": given.digest})
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
    return new_place(output / f"{course.called}.safetensors", "the file")


def _train(course: _Course, data: TrainingData, say: Callable[[str], None]) -> tuple[nn.Module, float]:
    network, rule = _begun(course)
    steps = course.epochs * data.steps(course.batch)
    falling = torch.optim.lr_scheduler.LambdaLR(rule, lambda at: 0.5 + 0.5 * math.cos(math.pi * at / steps))
    accuracy = 0.0
    for epoch in range(course.epochs):
        losses = []
        key = ("training", course.called, course.seed, "order", epoch)
        for number, (clean, labels) in enumerate(data.batches(course.batch, *key)):
            images = clean
            if course.adversarial is not None:
                images = worst(network, clean, labels, course.adversarial, course.drawn("start", epoch, number))
            losses.append(step(network, rule, images, labels))
            falling.step()
        loss_of_all = mean_loss(losses, len(data.labels), course.called, epoch + 1, course.learning_rate)
        accuracy = data.accuracy(network)
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


def _robust(network: nn.Module, data: TrainingData, course: _Course) -> float:
    """Return the accuracy on the first test images under the attack of the training, but with `_JUDGED_BY` steps."""
    assert course.adversarial is not None, "only adversarial training has an attack"
    images, labels = data.test_pixels[:_AT_ONCE] / 255, data.test_labels[:_AT_ONCE]
    attack = PGD(course.adversarial.epsilon, _JUDGED_BY)
    found = worst(network, images, labels, attack, course.drawn("judged"))
    with torch.inference_mode():
        return float((network(found).argmax(1) == labels).double().mean())
