"""`study train`: train small networks on images in MNIST's format."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from study.models.adversarial_training import PGD
from study.models.training import train
from study.terminal import prose


@dataclass(frozen=True)
class TrainOptions:
    """The options of `study train`.

    Attributes:
        output: The folder for the weights.
        networks: The names of the networks.
        epochs: Number of epochs.
        seed: The random seed.
        adversarial: Train on adversarial images within this L-infinity budget, in pixel values; None: on clean images.
        threads: Number of CPU threads.
    """

    output: Path
    networks: tuple[str, ...]
    epochs: int
    seed: int
    adversarial: float | None = None
    threads: int = 1


def train_networks(data: Path, console: Console, options: TrainOptions) -> None:
    """Train each network on the IDX files in the folder `data`, and print the accuracy of each network."""
    say = partial(prose.say, console)
    epsilon = options.adversarial
    trained = train(
        data,
        options.networks,
        options.output,
        epochs=options.epochs,
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
