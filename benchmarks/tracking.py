"""What tracking costs: a study with and without it, in turns, in this process. Prints JSON last.

    python benchmarks/tracking.py [--rounds 5] [--steps 40]

The same small study is launched again and again: not tracked, tracked offline, and in the other order the next time.
What counts is the time from the first unit to the last row on disk; what W&B's end takes is printed beside it. `ratio`
is the median over rounds of tracked to not tracked; it scatters as the machine's speed does. What can add up to it
scatters less: `held_seconds` that the driver spends on telling the tracker, and the processor time of W&B's processes.
`most_percent` is both over the time of the study, as if no core was ever free for them.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from rich.console import Console

import actors.launch
from actors.inprocess import InProcess
from actors.launch import Order, launch
from study.tracking.tracker import Tracker
from study.watching import Ended, Many, Started, Watcher


class Held:
    """Seconds that the driver spends inside the tracker."""

    def __init__(self) -> None:
        self.seconds = 0.0
        for name in ("started", "finished", "failed", "state"):
            setattr(Tracker, name, self._timed(getattr(Tracker, name)))

    def _timed(self, method: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            begun = time.perf_counter()
            method(*arguments)
            self.seconds += time.perf_counter() - begun

        return call


class Clock(Watcher):
    """When units began, and when they were over."""

    def __init__(self) -> None:
        self.begun = self.over = 0.0

    def started(self, event: Started) -> None:
        self.begun = time.monotonic()

    def end(self) -> None:
        self.over = time.monotonic()

    def ended(self, event: Ended) -> None: ...


def spec(steps: int) -> dict[str, object]:
    """Some hundred units, each of some hundredths of a second."""
    return {
        "study": "tracking",
        "images": {"sample": "foolbox", "size": 64, "keep": "all", "count": 16},
        "models": {
            "a": {"network": "torchvision:squeezenet1_1", "weights": "random:1", "size": 64},
            "b": {"network": "timm:test_resnet", "weights": "random:2", "size": 64},
        },
        "attacks": {"mi": {"steps": steps}, "igsm": {"steps": steps}},
        "experiments": {
            "single": {
                "attacks": ["mi", "igsm"],
                "sources": "each",
                "goal": ["untargeted", "targeted"],
                "seeds": [0, 1],
            }
        },
        "numerics": {"batch": 4, "threads": 1},
        "run": {"shard": 4, "actors": 1},
    }


def timed(file: Path, folder: Path, mode: str) -> tuple[float, float]:
    """Seconds of the units, and of what came after them."""
    clock, console = Clock(), Console(file=io.StringIO())
    begin = actors.launch._Study.run

    def watched(study: actors.launch._Study, *arguments: object) -> int:
        study.display = Many(clock, [study.display])
        return begin(study, *arguments)

    actors.launch._Study.run = watched
    try:
        status = launch(Order(file, folder, wandb=mode), console, InProcess)
    finally:
        actors.launch._Study.run = begin
    assert status == 0, console.file.getvalue()[-2000:]
    return clock.over - clock.begun, time.monotonic() - clock.over


def _cpu_of_children() -> float:
    """CPU seconds of the processes that W&B ran in, its service included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    given = parser.parse_args()
    torch.set_num_threads(1)
    ratios, ends, plain, holding, working = [], [], [], [], []
    held = Held()
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "spec.yaml"
        file.write_text(yaml.safe_dump(spec(given.steps)))
        timed(file, Path(scratch) / "warm", "disabled")
        for turn in range(given.rounds):
            modes = ("disabled", "offline") if turn % 2 == 0 else ("offline", "disabled")
            before, used = held.seconds, _cpu_of_children()
            took = {mode: timed(file, Path(scratch) / f"{turn}-{mode}", mode) for mode in modes}
            holding.append(held.seconds - before)
            working.append(_cpu_of_children() - used)
            ratios.append(took["offline"][0] / took["disabled"][0])
            ends.append(took["offline"][1] - took["disabled"][1])
            plain.append(took["disabled"][0])
            print(
                f"{took['disabled'][0]:.2f} s, tracked {took['offline'][0]:.2f} s, ratio {ratios[-1]:.3f}", flush=True
            )
    print(
        json.dumps(
            {
                "ratio": statistics.median(ratios),
                "ratios": ratios,
                "held_seconds": statistics.median(holding),
                "cpu_seconds_of_tracking": statistics.median(working),
                "most_percent": 100
                * (statistics.median(holding) + statistics.median(working))
                / sum(plain)
                * len(plain),
                "seconds_untracked": statistics.median(plain),
                "seconds_at_the_end": statistics.median(ends),
            }
        )
    )


if __name__ == "__main__":
    main()
