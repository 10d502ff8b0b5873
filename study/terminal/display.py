"""The front of a launch: the view that suits where it prints, and behind it the log and status.json of the run."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Literal

from rich.console import Console as AnyConsole
from rich.console import ConsoleDimensions

from study.errors import StudyError
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
    """What was asked on the command line: a view for people, next to nothing, or events for programs."""

    how: How = "shown"


def style(*, quiet: bool, json: bool) -> Style:
    """What two switches come to. Raises StudyError where both are given."""
    if quiet and json:
        raise StudyError("--quiet and --json exclude each other", accepted="one of them", todo="leave one out")
    return Style("quiet" if quiet else "json" if json else "shown")


class Display(Observer):
    """Everything that a launch says goes through it. Entered before the spec is read, left when all is over.

    `attach` comes once the run folder is held: from then on there are a log and a status, and whatever libraries print
    goes to the log, if `console` is this process's standard output.
    """

    def __init__(self, console: AnyConsole, style: Style | None = None) -> None:
        self._how: How = (style or Style()).how
        self._printer = console
        self._stderr: IO[str] | None = None
        self._open = contextlib.ExitStack()
        self._board = RunState("study")
        self._view = self._chosen(self._how)
        self._all: list[Observer] = [self._board, self._view]
        self._log: Log | None = None
        self._status: StatusFile | None = None
        self._refused: StudyError | None = None
        self.console: AnyConsole = console if self._how == "shown" else Console(quiet=True)
        """What tables are printed to: nowhere, where nobody asked for them."""

    def __enter__(self) -> Display:
        repairs.taken()  # what this process mended before has been told, or was not about a launch
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.settle()
            self._hear()
            if isinstance(error, StudyError) and error is not self._refused:
                self.refused(error)
            if error is not None and self._log is not None:
                self._log.write(f"ended by {type(error).__name__}: {error}")
        finally:
            self._open.close()

    def attach(self, study: str, folder: RunFolder, credentials: Sequence[str] = ()) -> None:
        """The run is held: log, status and the live view begin. `credentials` are variables whose values are secret."""
        self._board.study = study
        self._log = log = Log(path_of(folder), secrets(credentials, os.environ), self._view.say)
        self._open.callback(log.close)
        log.write(f"{study} is launched into {folder.path}, process {os.getpid()}")
        self._divert(log)
        self._status = StatusFile(folder, self._board, self.say)
        self._all += [log, ProgressLines(log.write, self._board), self._status]
        if isinstance(self._view, Live):
            self._view.open()
        self._hear()

    def refused(self, error: StudyError) -> None:
        """The launch ends with an error: now, for those who ask, whatever the way out may still bring."""
        self._refused = error
        for one in (self._view, self._status):
            if isinstance(one, Events | StatusFile):
                one.refused(error)
        if self._log is not None:
            self._log.write(f"error: {error}")

    def settle(self) -> None:
        """The live view is taken away: what follows are tables and last words."""
        if isinstance(self._view, Live):
            self._view.close()

    def verdict(self, line: str) -> None:
        """The line that is printed even where hardly anything is."""
        self.say(line)
        if self._how == "quiet":
            prose.say(self._printer, line)

    @property
    def gradients(self) -> int:
        """Image gradients that this launch took."""
        return self._board.gradients

    @property
    def seconds_crafting(self) -> float:
        """Those that workers crafted for in this launch, loading and predicting left out."""
        return self._board.seconds_crafting

    @property
    def repairs(self) -> dict[str, int]:
        """How much was mended in this launch, by kind."""
        self._hear()
        return dict(self._board.repairs)

    def _hear(self) -> None:
        """Pass on what was mended since: any thread may mend something, and one alone tells people."""
        if self._log is not None:
            for repair in repairs.taken():
                for one in self._all:
                    one.repaired(repair)

    def say(self, line: str) -> None:
        self._hear()
        for one in self._all:
            one.say(line)

    def begin(self, totals: Mapping[str, int], done: Mapping[str, int] | None = None) -> None:
        for one in self._all:
            one.begin(totals, done)

    def advance(self, names: Iterable[str]) -> None:
        given = list(names)
        for one in self._all:
            one.advance(given)

    def end(self) -> None:
        # The views first: what was done is told before the board forgets it.
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
        """The view that suits what was asked, and where it goes."""
        console = self._printer
        if how == "json":
            return Events(lambda: self._printer.file, self._board)
        if how == "quiet":
            return Quiet(self._errors, self._board)
        if console.is_terminal and not console.is_dumb_terminal:
            return Live(lambda: self._printer, self._board)
        return Lines(lambda: self._printer, self._board)

    def _errors(self, line: str) -> None:
        print(visible(line), file=self._stderr, flush=True)

    def _divert(self, log: Log) -> None:
        """Libraries print into the log from now on; what is ours goes where it did, through descriptors of its own."""
        if not _is_ours(self._printer):
            return
        out, err = (self._open.enter_context(_copied(number)) for number in (1, 2))
        self._printer, self._stderr = _Apart(self._printer, out), err
        if self._how == "shown":
            self.console = self._printer
        self._open.enter_context(diverted(log))


class _Apart(Console):
    """A console on a descriptor of its own, which asks that descriptor how large the terminal is.

    COLUMNS and LINES do not count on a terminal that answers: shells and readline export what was true at some time,
    and a view that is wider than its terminal leaves ghosts of itself behind. The cursor is never hidden: nobody would
    show it again after a kill.
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
        raise AttributeError("the size of a terminal is what it says")

    def show_cursor(self, show: bool = True) -> bool:
        return False


@contextlib.contextmanager
def _copied(number: int) -> Iterator[IO[str]]:
    """A stream that writes where descriptor `number` leads now, and goes on to when that is led elsewhere."""
    usual = sys.__stdout__ if number == 1 else sys.__stderr__
    encoding = getattr(usual, "encoding", None) or "utf-8"
    raw = io.BufferedWriter(LossyFile(os.dup(number), "w"))
    with io.TextIOWrapper(raw, encoding=encoding, errors="replace", line_buffering=True) as stream:
        yield stream


def _is_ours(console: AnyConsole) -> bool:
    """Whether a console prints to this process's standard output, and not into a test or a file of its own."""
    try:
        return console.file.fileno() == 1 and sys.stderr.fileno() == 2
    except (AttributeError, OSError, ValueError):
        return False
