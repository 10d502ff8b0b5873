"""Collect weights around a trained network, for attacks that change the weights of their source from step to step.

Source: LGV, Gubri et al. 2022 (arXiv:2207.13129), section 4. Training continues from the trained weights by stochastic
gradient descent at a high, constant learning rate, and weights are kept at equal intervals. The authors keep 40 weights
in ten epochs, at a learning rate of 0.05, with momentum 0.9 and a weight decay of 1e-4.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from study.errors import StudyError
from study.models.networks import NETWORKS
from study.models.training import TRAINABLE
from study.models.training_data import mean_loss, new_place, read_training_data, save_weights, step
from study.models.weights import state_dict
from study.reproducibility.numerics import fix

_MOMENTUM, _DECAY = 0.9, 1e-4


@dataclass(frozen=True)
class Collected:
    """A folder of collected weights, and their number.

    `start` is the test accuracy (0..1) of the network at the start. `worst` and `best` are the lowest and the highest
    test accuracy of the collected weights.
    """

    folder: Path
    count: int
    start: float
    worst: float
    best: float


def collect(
    data: Path,
    start: Path,
    output: Path,
    *,
    count: int = 40,
    epochs: int = 10,
    batch: int = 100,
    learning_rate: float = 0.05,
    seed: int = 0,
    threads: int = 1,
    say: Callable[[str], None],
) -> Collected:
    """Collect `count` weights around those in the file `start`, and write them to the folder `<output>/<start>_lgv`.

    `start` is a file of `study train`. `data` is a folder with IDX files: the data of that training, or other data in
    MNIST's format. `epochs` is the number of epochs in which the weights are collected. On one type of CPU, the same
    start, data, settings and version of torch give the same bytes. `say` receives a line after every epoch.

    Raises StudyError if the file is not one of `study train`, if the folder exists already, if there are more weights
    than training steps, or if training diverges. A failed or interrupted collection leaves no such folder.
    """
    network, name = _trained(start)
    folder = new_place(output / f"{start.stem}_lgv", "this folder")
    given = read_training_data(data)
    steps = epochs * given.steps(batch)
    if count > steps:
        raise StudyError(
            f"{count} sets of weights cannot be collected in {steps} training steps",
            accepted=f"at most {steps}, one after each step",
            todo="collect fewer, or use more epochs",
        )
    fix(threads)
    rule = torch.optim.SGD(network.parameters(), learning_rate, momentum=_MOMENTUM, weight_decay=_DECAY)
    stops = {round(number * steps / count): number for number in range(1, count + 1)}
    settings = {"epochs": epochs, "batch": batch, "learning_rate": learning_rate, "seed": seed, "threads": threads}
    record: dict[str, Any] = {"network": name, "start": _digest(network), "data": given.digest, **settings}
    before, accuracies, done = given.accuracy(network), list[float](), 0
    away = folder.with_name(f".{folder.name}")
    shutil.rmtree(away, ignore_errors=True)
    away.mkdir()
    try:
        for epoch in range(epochs):
            losses = []
            for images, labels in given.batches(batch, "collecting", start.stem, seed, "order", epoch):
                losses.append(step(network, rule, images, labels))
                done += 1
                if done in stops:
                    accuracies.append(given.accuracy(network))
                    file = away / f"{stops[done]:0{len(str(count))}}.safetensors"
                    save_weights(network, file, {**record, "step": done, "accuracy": accuracies[-1]})
            loss_of_all = mean_loss(losses, len(given.labels), folder.name, epoch + 1, learning_rate)
            say(
                f"{folder.name}: epoch {epoch + 1} of {epochs}, loss {loss_of_all:.4f}, {len(accuracies)} of {count} "
                f"weights"
            )
        away.rename(folder)
    finally:
        shutil.rmtree(away, ignore_errors=True)
    return Collected(folder, count, before, min(accuracies), max(accuracies))


def _trained(path: Path) -> tuple[nn.Module, str]:
    """Return the network of a file of `study train`, with its weights, and the network's name."""
    if not path.is_file():
        raise StudyError(f"the weights file {path} does not exist", todo="correct the path of the file")
    name, tensors = _name(path), state_dict.read(path)
    network = NETWORKS[name]()
    state_dict.load(network, tensors, called=name, origin=str(path))
    return network, name


def _name(path: Path) -> str:
    """Return the name of the network whose weights `study train` wrote to a file."""
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as opened:
            record = json.loads((opened.metadata() or {})["study"])
        name = str(record["network"] if "network" in record else f"mnist_fnn{record['depth']}")
    except Exception:  # noqa: BLE001 - a file of another program may hold anything
        name = ""
    if name not in TRAINABLE:
        raise StudyError(
            f"{path} is not a weights file of `study train`",
            accepted="a file such as weights/mnist_cnn.safetensors, which `study train` wrote",
            todo="train the network first, and name the file of its weights",
        )
    return name


def _digest(network: nn.Module) -> str:
    hashed = hashlib.sha256()
    state_dict.hash_into(hashed.update, network.state_dict())
    return hashed.hexdigest()
