"""Observers that print lines: progress and messages with the time, or only failures and repairs."""

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
_SHOWN_CALLS = 2


class ProgressLines(Observer):
    """Writes lines on the progress: a line every ten seconds, after five minutes a line every minute, and a last line.

    While the launch waits, for example for workers, the line has the phase and the time since the launch began.
    """

    def __init__(
        self, write: Callable[[str], None], state: RunState, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._state = state
        self._clock = clock
        self._last = clock()

    def begin(self, totals: Mapping[str, int], done: Mapping[str, int] | None = None) -> None:
        self._last = self._clock()

    def wait(self) -> None:
        if self._clock() - self._last >= self._between():
            self._last = self._clock()
            self._write(f"{self._state.phase}: {duration(self._state.elapsed)} since the launch began")

    def advance(self, names: Iterable[str]) -> None:
        finished = all(self._state.done[name] >= total for name, total in self._state.totals.items())
        if finished or self._clock() - self._last >= self._between():
            self._tell()

    def state(self, event: State) -> None:
        if self._clock() - self._last >= self._between():
            self._tell()

    def _between(self) -> float:
        return _FIRST_SECONDS if self._state.elapsed < _LONG_SECONDS else _LATER_SECONDS

    def _tell(self) -> None:
        self._last = self._clock()
        state = self._state
        shown = [name for name in state.totals if state.done[name] < state.totals[name]] or list(state.totals)
        counts = ", ".join(f"{name} {state.done[name]:,}/{state.totals[name]:,}" for name in shown[:_SHOWN_EXPERIMENTS])
        if len(shown) > _SHOWN_EXPERIMENTS:
            counts += f", … ({counted(len(shown), 'experiment')})"
        parts = [f"{100 * state.share:.0f} %", counts]
        if state.rates.gradients:
            parts.append(f"{amount(state.rates.gradients)} gradients/s")
        if state.seconds_left:
            parts.append(f"about {duration(state.seconds_left)} left")
        parts += [f"{slot.doing}: {slot.activity}" for slot in state.at_work[:_SHOWN_CALLS]]
        if state.set_aside:
            parts.append(f"{state.set_aside:,} failed")
        if state.loop is not None and state.loop.lost_actors:
            parts.append(counted(state.loop.lost_actors, "lost actor"))
        self._write("; ".join(parts))


class Lines(ProgressLines):
    """Prints progress, messages, failures and repairs. Each line begins with the time of day."""

    def __init__(
        self, printer: Callable[[], Console], state: RunState, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`printer` returns the console. It is called for each line, because the display may replace the console."""
        super().__init__(self.say, state, clock)
        self._printer = printer
        self._failures = 0

    def say(self, line: str) -> None:
        stamp = datetime.now().astimezone().strftime("%H:%M:%S")
        say(self._printer(), f"{stamp} {line}")

    def failed(self, event: UnitFailed) -> None:
        self._failures += 1
        if self._failures <= _MOST_FAILURES:
            self.say(f"failed: {self._state.last_failure}")
        if self._failures == _MOST_FAILURES:
            self.say("further failures are counted, and listed in failures.json at the end")

    def repaired(self, event: Repair) -> None:
        for line in told(event, self._state):
            self.say(line)


class Quiet(Observer):
    """Prints only failures and repairs, by `print_error`, which writes to standard error."""

    def __init__(self, print_error: Callable[[str], None], state: RunState) -> None:
        self._print = print_error
        self._state = state
        self._failures = 0

    def failed(self, event: UnitFailed) -> None:
        self._failures += 1
        if self._failures <= _MOST_FAILURES:
            said = (event.error.strip().splitlines() or ["no reason given"])[0]
            where = f" on {event.target}" if event.target else ""
            self._print(f"failed: {event.unit.id}{where}: {said}")
        if self._failures == _MOST_FAILURES:
            self._print("further failures are listed in failures.json at the end")

    def repaired(self, event: Repair) -> None:
        for line in told(event, self._state):
            self._print(line)


def told(event: Repair, state: RunState) -> list[str]:
    """Return the lines to print for a repair, which `state` has counted already.

    After the 20th repair of a launch, the list is empty.
    """
    count = state.repairs.total()
    if count > _MOST_REPAIRS:
        return []
    return [str(event), *(["further repairs are counted, and listed in study.log"] if count == _MOST_REPAIRS else [])]
