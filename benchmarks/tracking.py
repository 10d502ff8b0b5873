"""Measures what tracking costs: a study runs with and without tracking, in turns, in this process.

    python benchmarks/tracking.py [--rounds 5] [--steps 40]

The same small study is launched again and again, in three modes: not tracked, tracked offline, and tracked online. The
online mode uses a server that hangs up, delays and corrupts its answers. Each round begins with another mode. The time
from the first unit to the last row on disk counts. The longest time that a launch took to end is printed too.

`ratio_…` is the median over rounds of the ratio of tracked to untracked time. It scatters as much as the speed of the
machine. Two parts of the cost scatter less: `held_seconds`, which the driver spends in the tracker, and the processor
time of W&B's processes. `most_percent` is the sum of both parts, relative to the time of the study. It is an upper
bound, which assumes that no core is free for W&B. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import torch
import yaml
from rich.console import Console

from actors.backends.in_process import InProcess
from actors.launch.launch import launch
from actors.launch.options import LaunchOptions
from study.events.observer import Started
from study.terminal import Display
from study.tracking.client import TrackingClient

MODES = ("disabled", "offline", "hostile")
_SERVER = Path(__file__).resolve().parents[1] / "tests" / "study" / "tracking" / "service.py"


class Held:
    """Measures the seconds that the driver spends inside the tracker."""

    def __init__(self) -> None:
        self.seconds = 0.0
        for name in ("started", "finished", "state"):
            setattr(TrackingClient, name, self._timed(getattr(TrackingClient, name)))

    def _timed(self, method: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            begun = time.perf_counter()
            method(*arguments)
            self.seconds += time.perf_counter() - begun

        return call


class Clock:
    """Records when the units of a launch began and ended, by the events that the display gets."""

    def __init__(self) -> None:
        self.begun = self.over = 0.0
        started, end = Display.started, Display.end

        def timed_start(display: Display, event: Started) -> None:
            self.begun = time.monotonic()
            started(display, event)

        def timed_end(display: Display) -> None:
            self.over = time.monotonic()
            end(display)

        Display.started, Display.end = timed_start, timed_end  # type: ignore[method-assign]


def spec(steps: int) -> dict[str, object]:
    """Return a spec with 64 units, each of some hundredths of a second."""
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


def timed(clock: Clock, file: Path, folder: Path, mode: str) -> tuple[float, float]:
    """Launch the study. Returns the seconds of its units, and the seconds from the last unit to the end."""
    console = Console(file=io.StringIO())
    tracked = "online" if mode == "hostile" else mode
    status = launch(LaunchOptions(file, folder, wandb=tracked), console, InProcess)
    assert status == 0, console.file.getvalue()[-2000:]
    return clock.over - clock.begun, time.monotonic() - clock.over


def _cpu_of_children() -> float:
    """Return the processor seconds of the processes that W&B ran in, including its service."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextlib.contextmanager
def hostile(seed: int) -> Iterator[None]:
    """Return a context in which W&B's online mode uses a faulty server, which this function starts.

    The server drops, delays and corrupts most of its answers. `seed` decides which.
    """
    with subprocess.Popen(
        [sys.executable, str(_SERVER), str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        os.setpriority(os.PRIO_PROCESS, server.pid, 19)
        os.environ |= {"WANDB_BASE_URL": server.stdout.readline().strip(), "WANDB_API_KEY": "0123456789" * 4}
        try:
            yield
        finally:
            server.stdin.close()


def rows(folder: Path) -> pl.DataFrame:
    """Return all rows of a study, in a fixed order."""
    found = pl.read_parquet(folder / "results" / "*.parquet")
    return found.sort("craft", "seed", "steps", "image", "target")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    given = parser.parse_args()
    torch.set_num_threads(1)
    held, clock = Held(), Clock()
    took: dict[str, list[float]] = {mode: [] for mode in MODES}
    ends: dict[str, list[float]] = {mode: [] for mode in MODES}
    holding, working, same = [], [], []
    with tempfile.TemporaryDirectory() as scratch, hostile(1):
        file = Path(scratch) / "spec.yaml"
        file.write_text(yaml.safe_dump(spec(given.steps)))
        timed(clock, file, Path(scratch) / "warm", "disabled")
        expected = rows(Path(scratch) / "warm")
        for turn in range(given.rounds):
            for mode in MODES[turn % len(MODES) :] + MODES[: turn % len(MODES)]:
                before, used, folder = held.seconds, _cpu_of_children(), Path(scratch) / f"{turn}-{mode}"
                units, end = timed(clock, file, folder, mode)
                took[mode].append(units)
                ends[mode].append(end)
                same.append(rows(folder).equals(expected))
                if mode == "offline":
                    holding.append(held.seconds - before)
                    working.append(_cpu_of_children() - used)
            print(", ".join(f"{mode} {seconds[-1]:.2f} s" for mode, seconds in took.items()), flush=True)
    plain = statistics.median(took["disabled"])
    found: dict[str, object] = {"rounds": given.rounds, "rows_equal": all(same), "seconds_untracked": plain}
    for mode in MODES[1:]:
        ratios = [tracked / untracked for tracked, untracked in zip(took[mode], took["disabled"], strict=True)]
        found |= {
            f"ratio_{mode}": statistics.median(ratios),
            f"ratios_{mode}": [round(ratio, 3) for ratio in ratios],
            f"seconds_at_the_end_{mode}": max(ends[mode]),
        }
    held_seconds, cpu_seconds = statistics.median(holding), statistics.median(working)
    found |= {
        "held_seconds": held_seconds,
        "cpu_seconds_of_tracking": cpu_seconds,
        "most_percent": 100 * (held_seconds + cpu_seconds) / plain,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
