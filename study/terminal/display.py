"""The display of a launch: what it prints (a live view, lines or JSON events), its log, and its status.json."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Literal

from rich.console import Console as AnyConsole
from rich.console import ConsoleDimensions

from study.errors import StudyError, first_line
from study.events import repairs
from study.events.json_lines import Events
from study.events.observer import Ended, Observer, Started, State, UnitDone, UnitFailed
from study.events.run_state import RunState
from study.process.output import LossyFile
from study.safe_text import visible
from study.storage.run_folder import RunFolder
from study.terminal import prose
from study.terminal.console import Console
from study.terminal.lines import Lines, ProgressLines, Quiet
from study.terminal.live import Live
from study.terminal.log import Log, diverted, path_of, secrets
from study.terminal.status import StatusFile

How = Literal["shown", "quiet", "json"]


@dataclass(frozen=True)
class Style:
    """The style of the output. `how`: `shown` (readable text), `quiet` or `json` (events).

    `quiet` shows only failures, repairs and the last line.

    `shared`: whether a debugger, or the Python program that launches the study, uses the same terminal. If it is True,
    there is no live view, and output of libraries is not redirected to the log.
    """

    how: How = "shown"
    shared: bool = False


def style(*, quiet: bool, json: bool, shared: bool = False) -> Style:
    """Return the style for the options `--quiet` and `--json`. Raises StudyError if both are given."""
    if quiet and json:
        raise StudyError(
            "--quiet and --json exclude each other",
            accepted="one of the two options",
            todo="remove --quiet or --json",
        )
    return Style("quiet" if quiet else "json" if json else "shown", shared)


class Display(Observer):
    """Passes all events and messages of a launch to its view (the output on the terminal), its log and its status.json.

    Enter the display as a context, raise all errors of the launch inside it, and call `attach` when the run folder is
    claimed. From then on, the display writes the log and status.json. It also redirects output of libraries to the log,
    if `console` is the standard output of this process and `style` is not shared.
    """

    def __init__(self, console: AnyConsole, style: Style | None = None) -> None:
        style = style or Style()
        self._how: How = style.how
        self._shared = style.shared
        self._printer = console
        self._stderr: IO[str] | None = None
        self._open = contextlib.ExitStack()
        self.run_state = RunState("study")
        self._view = self._chosen(self._how)
        self._all: list[Observer] = [self.run_state, self._view]
        self._log: Log | None = None
        self._status: StatusFile | None = None
        self._refused: StudyError | None = None
        self.console: AnyConsole = console if self._how == "shown" else Console(quiet=True)
        """The console for tables. This console prints nothing if the output is quiet or JSON."""

    def __enter__(self) -> Display:
        repairs.taken()  # This discards repairs from before the launch.
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.settle()
            self._hear()
            if isinstance(error, StudyError):
                if error is not self._refused:
                    self.refused(error)
            elif isinstance(error, Exception):
                self.refused(StudyError(f"{type(error).__name__}: {first_line(error)}", status=1))
                if self._log is not None:
                    self._log.write("".join(traceback.format_exception(error)))
            if error is not None and self._log is not None:
                self._log.write(f"ended by {type(error).__name__}: {error}")
        finally:
            self._open.close()

    def attach(self, study: str, folder: RunFolder, credentials: Sequence[str] = ()) -> None:
        """Start the log, status.json and the live view.

        `credentials`: names of environment variables whose values the log must not show.
        """
        self.run_state.study = study
        self._log = log = Log(path_of(folder), secrets(credentials, os.environ), self._view.say)
        self._open.callback(log.close)
        log.write(f"{study} is launched into {folder.path}, process {os.getpid()}")
        self._divert(log)
        self._status = StatusFile(folder, self.run_state, self.say)
        self._all += [log, ProgressLines(log.write, self.run_state), self._status]
        if isinstance(self._view, Live):
            self._view.open()
        self._hear()

    def refused(self, error: StudyError) -> None:
        """Write `error`, which ends the launch, to JSON events, status.json and the log.

        If a backend hangs or dies, this is called before the backend closes.
        """
        self._refused = error
        for one in (self._view, self._status):
            if isinstance(one, Events | StatusFile):
                one.refused(error)
        if self._log is not None:
            self._log.write(f"error: {error}")

    def settle(self) -> None:
        """Remove the live view, if there is one, before tables and the last lines are printed."""
        if isinstance(self._view, Live):
            self._view.close()

    def verdict(self, line: str) -> None:
        """Print the last line of a launch, even if the output is quiet."""
        self.say(line)
        if self._how == "quiet":
            prose.say(self._printer, line)

    @property
    def errors(self) -> int | None:
        """The file descriptor of the user's standard error; None if it has none, as in a notebook."""
        try:
            return (self._stderr or sys.stderr).fileno()
        except (AttributeError, OSError, ValueError):
            return None

    @property
    def gradients(self) -> int:
        """Number of image gradients that this launch has computed."""
        return self.run_state.gradients

    @property
    def seconds_crafting(self) -> float:
        """Seconds that workers spent on attacks in this launch, without the time for loading and predictions."""
        return self.run_state.seconds_crafting

    @property
    def failures(self) -> int:
        """Number of failures of attack units, or of single targets of them, in this launch."""
        return self.run_state.set_aside

    @property
    def repairs(self) -> dict[str, int]:
        """Number of repairs in this launch, by kind."""
        self._hear()
        return dict(self.run_state.repairs)

    def _hear(self) -> None:
        """Pass the repairs that were reported since the last call to all observers.

        Any thread can report repairs, but only the driver's thread calls this method.
        """
        if self._log is not None:
            for repair in repairs.taken():
                for one in self._all:
                    one.repaired(repair)

    def say(self, line: str) -> None:
        self._hear()
        for one in self._all:
            one.say(line)

    def wait(self) -> None:
        self._hear()
        for one in self._all:
            one.wait()

    def begin(self, totals: Mapping[str, int], done: Mapping[str, int] | None = None) -> None:
        for one in self._all:
            one.begin(totals, done)

    def advance(self, names: Iterable[str]) -> None:
        given = list(names)
        for one in self._all:
            one.advance(given)

    def end(self) -> None:
        # Views come first, because the run state forgets its counts at the end.
        for one in reversed(self._all):
            one.end()

    def started(self, event: Started) -> None:
        for one in self._all:
            one.started(event)

    def finished(self, event: UnitDone) -> None:
        for one in self._all:
            one.finished(event)

    def failed(self, event: UnitFailed) -> None:
        for one in self._all:
            one.failed(event)

    def state(self, event: State) -> None:
        self._hear()
        for one in self._all:
            one.state(event)

    def ended(self, event: Ended) -> None:
        self._hear()
        for one in self._all:
            one.ended(event)

    def _chosen(self, how: How) -> Observer:
        """Return the view for `how` and this console: JSON events, failures and repairs, a live view, or lines."""
        console = self._printer
        if how == "json":
            return Events(lambda: self._printer.file, self.run_state)
        if how == "quiet":
            return Quiet(self._errors, self.run_state)
        if console.is_terminal and not console.is_dumb_terminal and not self._shared:
            return Live(lambda: self._printer, self.run_state)
        return Lines(lambda: self._printer, self.run_state)

    def _errors(self, line: str) -> None:
        print(visible(line), file=self._stderr or sys.stderr, flush=True)

    def _divert(self, log: Log) -> None:
        """Redirect output of libraries to the log.

        The display's own output still reaches the terminal, through copies of the original file descriptors.
        """
        if self._shared or not _is_ours(self._printer):
            return
        out, err = (self._open.enter_context(_copied(number)) for number in (1, 2))
        self._printer, self._stderr = _Apart(self._printer, out), err
        if self._how == "shown":
            self.console = self._printer
        self._open.enter_context(diverted(log))


class _Apart(Console):
    """A console that prints to `stream`, with the size of the terminal to which `stream` leads.

    If the terminal reports a size, the variables COLUMNS and LINES are ignored. Shells export values that can be out of
    date, and a view that is wider than its terminal leaves fragments. The cursor is never hidden, because the cursor
    would stay hidden if the process is killed.
    """

    def __init__(self, like: AnyConsole, stream: IO[str]) -> None:
        super().__init__(file=stream, color_system="auto", no_color=like.no_color, width=None)
        self._stream = stream

    @property
    def size(self) -> ConsoleDimensions:
        if self.is_terminal:
            with contextlib.suppress(OSError):
                columns, rows = os.get_terminal_size(self._stream.fileno())
                if columns and rows:
                    return ConsoleDimensions(columns, rows)
        return super().size

    @size.setter
    def size(self, new: tuple[int, int]) -> None:
        raise AttributeError("the terminal decides its size")

    def show_cursor(self, show: bool = True) -> bool:
        return False


@contextlib.contextmanager
def _copied(number: int) -> Iterator[IO[str]]:
    """Return a context with a stream that writes to the present destination of the file descriptor `number`, 1 or 2.

    If the descriptor is redirected later, the stream still writes to this destination.
    """
    usual = sys.__stdout__ if number == 1 else sys.__stderr__
    encoding = getattr(usual, "encoding", None) or "utf-8"
    raw = io.BufferedWriter(LossyFile(os.dup(number), "w"))
    with io.TextIOWrapper(raw, encoding=encoding, errors="replace", line_buffering=True) as stream:
        yield stream


def _is_ours(console: AnyConsole) -> bool:
    """Return whether `console` writes to file descriptor 1, and `sys.stderr` to file descriptor 2."""
    try:
        return console.file.fileno() == 1 and sys.stderr.fileno() == 2
    except (AttributeError, OSError, ValueError):
        return False
