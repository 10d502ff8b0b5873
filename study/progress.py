"""What a person sees of a running study: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from study.watching import Watcher

_SECONDS_BETWEEN_LINES = 10.0


class Live(Watcher):
    """Bars with elapsed and remaining time, one per name."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._bars: dict[str, TaskID] = {}

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False)

    def begin(self, totals: Mapping[str, int], done: Mapping[str, int] | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._bars = {
            name: self._progress.add_task(name, total=total, completed=(done or {}).get(name, 0))
            for name, total in totals.items()
        }
        self._progress.start()

    def advance(self, names: Iterable[str]) -> None:
        assert self._progress is not None, "advance comes after begin"
        for name in names:
            self._progress.advance(self._bars[name])

    def end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class Lines(Watcher):
    """Lines at a bounded rate, good for a log file."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()
        self._last = 0.0
        self._totals: dict[str, int] = {}
        self._done: dict[str, int] = {}

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def begin(self, totals: Mapping[str, int], done: Mapping[str, int] | None = None) -> None:
        self._totals, self._done = dict(totals), {name: (done or {}).get(name, 0) for name in totals}
        self._last = time.monotonic()

    def advance(self, names: Iterable[str]) -> None:
        for name in names:
            self._done[name] += 1
        finished = all(self._done[name] >= total for name, total in self._totals.items())
        if finished or time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            counts = ", ".join(f"{name} {self._done[name]}/{total}" for name, total in self._totals.items())
            self.say(f"[{time.monotonic() - self._start:5.0f} s] {counts}")

    def end(self) -> None:
        self._totals, self._done = {}, {}


def display(console: Console) -> Watcher:
    """Bars where there is a terminal, lines where there is none."""
    return Live(console) if console.is_terminal else Lines(console)
