"""Writes RUN/study.log, which has all messages of a launch with the time, and the output of libraries."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TextIO

from study.events.observer import Ended, Observer, Started, UnitFailed
from study.events.repairs import Repair
from study.process.children import looks_secret
from study.safe_text import visible
from study.storage.run_folder import RunFolder
from study.storage.s3_path import S3Path

_LEAST_SECRET = 6


def path_of(folder: RunFolder) -> Path:
    """Return the path of the log. If the run is in an object store, the log is in the user's cache folder."""
    if isinstance(folder.path, S3Path):
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return home / "study" / "logs" / folder.path.bucket / folder.path.key / "study.log"
    return folder.path / "study.log"


def secrets(named: Sequence[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of environment variables that must not appear in the log, the longest value first.

    These are the values of the variables in `named`, and of all variables whose name suggests a secret. Of the latter,
    values of fewer than six characters are left out.
    """
    found = {environment[name] for name in named if environment.get(name)}
    for name, value in environment.items():
        if len(value) >= _LEAST_SECRET and looks_secret(name):
            found.add(value)
    return tuple(sorted(found, key=len, reverse=True))


class Log(Observer):
    """An observer that appends messages and events to the file at `path`.

    `hidden`: texts that `write` replaces, such as secrets. Output of C++ code reaches the file without `write`. If the
    file cannot be written, the log calls `complain` once with a message, and writes no more.
    """

    def __init__(self, path: Path, hidden: tuple[str, ...], complain: Callable[[str], None]) -> None:
        self._path = path
        self._hidden = hidden
        self._complain = complain
        self._file: TextIO | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Libraries write to this descriptor too. In append mode, no line overwrites another line.
            self._file = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
        except OSError as error:
            self._give_up(error)

    @property
    def descriptor(self) -> int | None:
        """File descriptor of the log; None if the log is closed or cannot be written."""
        return None if self._file is None else self._file.fileno()

    def write(self, text: str, source: str = "study") -> None:
        """Write each line of `text`, after the time and `source`, which names the origin of the text.

        In the log, secrets are replaced by `…`, and control characters by visible escapes.
        """
        for secret in self._hidden:
            text = text.replace(secret, "…")
        text = visible(text)
        stamp = datetime.now().astimezone().isoformat(timespec="seconds")
        lines = "".join(f"{stamp} {source}: {line}\n" for line in text.splitlines() if line.strip())
        if self._file is not None and lines:
            try:
                self._file.write(lines)
            except (OSError, ValueError) as error:
                self._give_up(error)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):
                file.close()

    def say(self, line: str) -> None:
        self.write(line)

    def started(self, event: Started) -> None:
        self.write(f"{event.left} units to do, {event.workers} workers on {event.device}, {event.backend}")

    def failed(self, event: UnitFailed) -> None:
        self.write(f"failed: {event.unit.id}{f' on {event.target}' if event.target else ''}: {event.error}")
        self.write(event.traceback or "")

    def repaired(self, event: Repair) -> None:
        self.write(str(event))

    def ended(self, event: Ended) -> None:
        self.write(f"ended with status {event.status} after {event.seconds:.1f} s, {event.left} units left")

    def _give_up(self, error: Exception) -> None:
        self._file = None
        self._complain(f"the log {self._path} cannot be written, so this launch has no further log: {error}")


class _Stream(io.TextIOBase):
    """A replacement of sys.stdout or sys.stderr that writes whole lines to the log."""

    def __init__(self, log: Log, source: str) -> None:
        self._log = log
        self._source = source
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).replace("\r", "\n").split("\n")
        for line in lines:
            self._log.write(line, self._source)
        return len(text)

    def flush(self) -> None:
        if self._rest:
            self._log.write(self._rest, self._source)
            self._rest = ""


class _Handler(logging.Handler):
    """A handler of Python's `logging` that writes records of the level WARNING or higher to the log of the study."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.write(f"{record.levelname} {record.name}: {record.getMessage()}", "python")


@contextlib.contextmanager
def diverted(log: Log) -> Iterator[None]:
    """Return a context in which all output of this process, including output of C++ code, goes to `log`.

    If the log cannot be written, the context does nothing.
    """
    descriptor = log.descriptor
    if descriptor is None:
        yield
        return
    before, handler = (sys.stdout, sys.stderr), _Handler(log)
    for stream in before:
        stream.flush()
    kept = [os.dup(number) for number in (1, 2)]
    try:
        for number in (1, 2):
            os.dup2(descriptor, number)
        sys.stdout, sys.stderr = _Stream(log, "out"), _Stream(log, "err")
        logging.captureWarnings(True)
        logging.getLogger().addHandler(handler)
        yield
    finally:
        for replaced in (sys.stdout, sys.stderr):
            replaced.flush()
        logging.getLogger().removeHandler(handler)
        logging.captureWarnings(False)
        sys.stdout, sys.stderr = before
        for number, keep in zip((1, 2), kept, strict=True):
            os.dup2(keep, number)
            os.close(keep)
