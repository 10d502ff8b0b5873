"""Lines for a log file: each with the time, progress at a bounded rate. And next to none, where that was asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from rich.console import Console

from study.events.observer import Observer, State, UnitFailed
from study.events.repairs import Repair
from study.events.run_state import RunState
from study.terminal.prose import say
from study.terminal.screen import amount, counted, duration

_FIRST_SECONDS, _LATER_SECONDS, _LONG_SECONDS = 10.0, 60.0, 300.0
_MOST_FAILURES = 20
_MOST_REPAIRS = 20
_SHOWN_EXPERIMENTS = 6


class ProgressLines(Observer):
    """How far it is: a line every ten seconds, after five minutes one a minute, and one at the end."""

    def __init__(
        self, write: Callable[[str], None], board: RunState, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._board = board
        self._clock = clock
        self._last = clock()

    def begin(self, totals: Mapping[str, int], done: Mapping[str, int] | None = None) -> None:
        self._last = self._clock()

    def advance(self, names: Iterable[str]) -> None:
        finished = all(self._board.done[name] >= total for name, total in self._board.totals.items())
        if finished or self._clock() - self._last >= self._between():
            self._tell()

    def state(self, event: State) -> None:
        if self._clock() - self._last >= self._between():
            self._tell()

    def _between(self) -> float:
        return _FIRST_SECONDS if self._board.elapsed < _LONG_SECONDS else _LATER_SECONDS

    def _tell(self) -> None:
        self._last = self._clock()
        board = self._board
        shown = [name for name in board.totals if board.done[name] < board.totals[name]] or list(board.totals)
        counts = ", ".join(f"{name} {board.done[name]:,}/{board.totals[name]:,}" for name in shown[:_SHOWN_EXPERIMENTS])
        if len(shown) > _SHOWN_EXPERIMENTS:
            counts += f", … ({counted(len(shown), 'experiment')})"
        parts = [f"{100 * board.share:.0f} %", counts]
        if board.rates.gradients:
            parts.append(f"{amount(board.rates.gradients)} gradients/s")
        if board.seconds_left:
            parts.append(f"about {duration(board.seconds_left)} left")
        if board.set_aside:
            parts.append(f"{board.set_aside:,} set aside")
        if board.loop is not None and board.loop.lost_actors:
            parts.append(counted(board.loop.lost_actors, "lost actor"))
        self._write("; ".join(parts))


class Lines(ProgressLines):
    """Progress, whatever is said, and what is set aside, each line with the time."""

    def __init__(
        self, printer: Callable[[], Console], board: RunState, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`printer` gives the console to print to: it may change once."""
        super().__init__(self.say, board, clock)
        self._printer = printer
        self._failures = 0

    def say(self, line: str) -> None:
        stamp = datetime.now().astimezone().strftime("%H:%M:%S")
        say(self._printer(), f"{stamp} {line}")

    def failed(self, event: UnitFailed) -> None:
        self._failures += 1
        if self._failures <= _MOST_FAILURES:
            self.say(f"set aside: {self._board.last_failure}")
        if self._failures == _MOST_FAILURES:
            self.say("further failures are counted, and listed in failures.json at the end")

    def repaired(self, event: Repair) -> None:
        for line in told(event, self._board):
            self.say(line)


class Quiet(Observer):
    """Nothing but what went wrong, on standard error, and the last line."""

    def __init__(self, print_error: Callable[[str], None], board: RunState) -> None:
        self._print = print_error
        self._board = board
        self._failures = 0

    def failed(self, event: UnitFailed) -> None:
        self._failures += 1
        if self._failures <= _MOST_FAILURES:
            said = (event.error.strip().splitlines() or ["no reason given"])[0]
            where = f" on {event.target}" if event.target else ""
            self._print(f"set aside: {event.unit.id}{where}: {said}")
        if self._failures == _MOST_FAILURES:
            self._print("further failures are listed in failures.json at the end")

    def repaired(self, event: Repair) -> None:
        for line in told(event, self._board):
            self._print(line)


def told(event: Repair, board: RunState) -> list[str]:
    """What is printed of a repair that `board` has counted: the first of a launch, one by one."""
    count = board.repairs.total()
    if count > _MOST_REPAIRS:
        return []
    return [str(event), *(["further repairs are counted, and told in study.log"] if count == _MOST_REPAIRS else [])]
