"""`study train`: train the networks of the smoothed-gradient paper."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from study.models.training import train
from study.terminal import prose


@dataclass(frozen=True)
class TrainOptions:
    """The options of `study train`: the folder for weights, the numbers of hidden layers, epochs, and the seed."""

    output: Path
    depths: tuple[int, ...]
    epochs: int
    seed: int


def train_networks(data: Path, console: Console, options: TrainOptions) -> None:
    """Train a network of each depth on the IDX files in folder `data`."""
    say = partial(prose.say, console)
    for one in train(data, options.depths, options.output, epochs=options.epochs, seed=options.seed, say=say):
        say(f"{one.path}: {100 * one.accuracy:.1f} % accuracy on the test images")
