"""`study train`: the networks that this project trains itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from study.models.training import train as run
from study.terminal import prose


def train(data: Path, output: Path, depths: Sequence[int], console: Console, *, epochs: int, seed: int) -> None:
    """Train networks of `depths` on the IDX files in `data`; their weights go to `output`."""
    say = partial(prose.say, console)
    for one in run(data, depths, output, epochs=epochs, seed=seed, say=say):
        say(f"{one.path}: {100 * one.accuracy:.1f} % of the test images")
