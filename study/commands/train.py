"""`study train`: train small networks on images in MNIST's format, or collect weights around a trained one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from study.errors import StudyError
from study.models.adversarial_training import PGD
from study.models.collecting import collect
from study.models.training import train
from study.terminal import prose


@dataclass(frozen=True)
class TrainOptions:
    """The options of `study train`.

    Attributes:
        output: The folder for the weights.
        networks: The names of the networks; () for the fully connected networks of the smoothed-gradient paper.
        epochs: Number of epochs; None: 5, or 10 to collect weights.
        seed: The random seed.
        adversarial: Train on adversarial images within this L-infinity budget, in pixel values; None: on clean images.
        threads: Number of CPU threads.
        collect: A weights file around which weights are collected, in place of training networks.
        count: Number of weights to collect.
    """

    output: Path
    networks: tuple[str, ...]
    epochs: int | None
    seed: int
    adversarial: float | None = None
    threads: int = 1
    collect: Path | None = None
    count: int = 40


def train_networks(data: Path, console: Console, options: TrainOptions) -> None:
    """Train each network on the IDX files in the folder `data`, and print the accuracy of each network.

    With `options.collect`, collect weights instead. Raises StudyError as `train` and `collect` do, and if options
    exclude each other.
    """
    say = partial(prose.say, console)
    if options.collect is not None:
        if options.networks or options.adversarial is not None:
            raise StudyError(
                "--collect goes on from a trained network, so it excludes --network, --depth and --adversarial",
                accepted="study train FOLDER --collect FILE [--count N] [--epochs N]",
                todo="remove the other options; or train the network first",
            )
        found = collect(
            data,
            options.collect,
            options.output,
            count=options.count,
            epochs=10 if options.epochs is None else options.epochs,
            seed=options.seed,
            threads=options.threads,
            say=say,
        )
        say(
            f"{found.folder}: {found.count} weights of {100 * found.worst:.1f} to {100 * found.best:.1f} % accuracy on "
            f"the test images; the start has {100 * found.start:.1f} %"
        )
        say(f'in a spec: weights: {{set: "{found.folder}/*.safetensors"}}, role: source')
        return
    epsilon = options.adversarial
    trained = train(
        data,
        options.networks or tuple(f"mnist_fnn{depth}" for depth in (0, 2, 4, 8)),
        options.output,
        epochs=5 if options.epochs is None else options.epochs,
        seed=options.seed,
        adversarial=None if epsilon is None else PGD(epsilon),
        threads=options.threads,
        say=say,
    )
    for one in trained:
        shown = f"{one.path}: {100 * one.accuracy:.1f} % accuracy on the test images"
        if one.robust is not None:
            shown += f", {100 * one.robust:.1f} % under attack within {epsilon:g} pixel values"
        say(shown)
