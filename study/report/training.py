"""`study train`: the networks that this project trains itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from study.models.training import train as run


def train(data: Path, output: Path, depths: Sequence[int], console: Console, *, epochs: int, seed: int) -> None:
    """Train networks of `depths` on the IDX files in `data`; their weights go to `output`."""

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    for one in run(data, depths, output, epochs=epochs, seed=seed, say=say):
        say(f"{one.path}: {100 * one.accuracy:.1f} % of the test images")
