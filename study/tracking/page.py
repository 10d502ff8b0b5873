"""One W&B run: which steps it has, when something is due, and what stands on it at the end."""

from __future__ import annotations

import contextlib
import io
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from study.tracking import numbers
from study.tracking import picture as pictures
from study.tracking.ledger import Ledger
from study.tracking.numbers import Content, Speed
from study.tracking.outline import STRIDE, Outline

_LIVE_SECONDS, _TABLE_SECONDS = 5.0, 30.0
"""At least so long between two rows about the present, and between two tables; longer in long studies."""

_LIVE_SHARE, _TABLE_SHARE = 0.01, 0.05
"""Of the time since the launch began: so that a month of work has some hundreds of rows, and some dozens of tables."""

_MOST_TABLE_ROWS = 10_000
_LOOK_SECONDS = 0.02
_STARVED_MOST = 4.0
"""Times as long, at most, where others have the processor."""

_TABLES_AT_END, _ARTIFACT_SECONDS, _REPORT_SECONDS = 1.5, 2.0, 2.0

METRICS = (("success/*", "units"), ("success_low/*", "units"), ("success_high/*", "units"), ("rmsd/*", "units"),
           ("transfer/*", "units"), ("images", "units"), ("gradients", "units"),
           ("live/*", "live/units_done"), ("slots/*", "live/units_done"))  # fmt: skip
"""Metrics, and what their charts have below."""


class Page:
    """Writes history into `run` (`wandb.Run`), which has it up to the step `last`.

    The row about the first n units by turn stands at step n * STRIDE; rows about the present take the steps
    between, as they are free.
    """

    def __init__(self, run: Any, outline: Outline, ledger: Ledger, last: int, aside: Aside) -> None:
        self._run = run
        self._aside = aside
        self._outline = outline
        self._ledger = ledger
        self._content = Content(outline)
        self._last = last
        self._began = self._live_at = time.monotonic()
        self._table_at = self._began - _TABLE_SECONDS / 2
        for name, below in METRICS:
            run.define_metric(name, step_metric=below)

    @property
    def last(self) -> int:
        """The last step that the run has."""
        return self._last

    def catch_up(self) -> int:
        """Write every row of history that is due and not there yet; how many."""
        written = 0
        for due in self._ledger.due():
            if due.units * STRIDE > self._last:
                self._log(due.units * STRIDE, self._content.row(due))
                written += 1
        return written

    def present(self, speed: Speed, state: Mapping[str, Any], failures: int) -> None:
        """Write about the present, where it has been long enough."""
        now = time.monotonic()
        elapsed = now - self._began
        if now - self._live_at < max(_LIVE_SECONDS, _LIVE_SHARE * elapsed):
            return
        self._live_at = now
        row: dict[str, Any] = dict(numbers.live(self._outline, self._ledger, speed, state, failures))
        row["live/seconds"] = elapsed
        if now - self._table_at >= max(_TABLE_SECONDS, _TABLE_SHARE * elapsed):
            self._table_at = now
            self._aside.do("the table", self._tables, 1.0)
        self._between(row)

    def conclude(self, state: Mapping[str, Any], speed: Speed, failures: int) -> None:
        """The last row: how it stood at the end, with the tables."""
        row: dict[str, Any] = dict(numbers.live(self._outline, self._ledger, speed, state, failures))
        row.pop("live/eta_seconds", None)
        row["live/seconds"] = time.monotonic() - self._began
        self._aside.do("the last table", self._tables, _TABLES_AT_END)
        self._between(row)

    def upload(self, name: str, more: Mapping[str, Callable[[], bytes]], folder: Path) -> None:
        """Make the artifact `name` of what stands at the end, through files in `folder`."""
        self._aside.do(f"the artifact {name}", lambda: self._artifact(name, more, folder), _ARTIFACT_SECONDS)

    def _between(self, row: Mapping[str, Any]) -> None:
        if self._last + 1 < self._ledger.next_units * STRIDE:
            self._log(self._last + 1, row)

    def _log(self, step: int, row: Mapping[str, Any]) -> None:
        self._run.log(dict(row), step=step, commit=True)
        self._last = step

    def upload_report(self, name: str, run: str, folder: Path) -> None:
        """Make the artifact `name` of the HTML report of the run in folder `run`, if it is written in time."""
        self._aside.do(f"the artifact {name}", lambda: self._report(name, run, folder), _REPORT_SECONDS)
        self._aside.over()

    def _report(self, name: str, run: str, folder: Path) -> None:
        import wandb

        from study.report.html import document

        folder.mkdir(exist_ok=True)
        document.write(Path(run), folder / "report.html")
        artifact = wandb.Artifact(name, type="report")
        artifact.add_file(str(folder / "report.html"))
        self._run.log_artifact(artifact)

    def _tables(self) -> None:
        import wandb

        counts = self._ledger.now.copy()
        rows = numbers.cells(self._outline, counts).head(_MOST_TABLE_ROWS)
        values = [list(row) for row in rows.iter_rows()]
        table = wandb.Table(columns=[*rows.columns], data=values, allow_mixed_types=True)
        picture = wandb.Image(pictures.matrix(self._outline, counts))
        # Without a step it goes to the one after the last, which is the next row about the present, or its own.
        self._run.log({"matrix": table, "matrix_picture": picture}, commit=False)

    def _artifact(self, name: str, more: Mapping[str, Callable[[], bytes]], folder: Path) -> None:
        import wandb

        rows = numbers.cells(self._outline, self._ledger.now)
        matrix = io.BytesIO()
        pictures.matrix(self._outline, self._ledger.now).save(matrix, "PNG")
        made: dict[str, Callable[[], bytes]] = {
            "cells.csv": lambda: rows.write_csv().encode(),
            "matrix.png": matrix.getvalue,
            **more,
        }
        artifact = wandb.Artifact(name, type="results", metadata={"complete": self._ledger.complete})
        folder.mkdir(exist_ok=True)
        for file, make in made.items():
            path = folder / file
            path.write_bytes(make())
            artifact.add_file(str(path), name=file)
        self._run.log_artifact(artifact)


class Aside:
    """Does one thing at a time in a thread of its own: W&B asks its server about tables and artifacts, and waits for
    an answer as long as it takes, where all else goes through its files."""

    def __init__(self, tell: Callable[[str, Any], None]) -> None:
        self._tell = tell
        self._thread: threading.Thread | None = None
        self._doing = ""
        self._left_out: list[str] = []
        self._told = False

    def do(self, called: str, what: Callable[[], None], seconds: float) -> None:
        """Do it, and wait for that no longer than so. Left out where what came before is not over."""
        if self._thread is not None and not _joined(self._thread, seconds):
            self._left_out.append(called)
            return
        self._doing = called
        self._thread = threading.Thread(target=self._try, args=(what,), daemon=True)
        self._thread.start()
        _joined(self._thread, seconds)

    def over(self) -> None:
        """Nothing will be waited for any more: what is missing is told."""
        missing = [self._doing] if self._thread is not None and self._thread.is_alive() else []
        missing += self._left_out
        if missing:
            self._tell("trouble", f"not there in time, and left out: {', '.join(dict.fromkeys(missing))}")

    def _try(self, what: Callable[[], None]) -> None:
        try:
            what()
        except Exception as error:  # noqa: BLE001 - the numbers are logged all the same; said once
            traceback.print_exc()
            if not self._told:
                self._told = True
                self._tell("trouble", f"{self._doing} could not be uploaded: {one_line(error)}")


def _joined(thread: threading.Thread, seconds: float) -> bool:
    """Whether a thread has ended within so long; while we wait for a processor that others have, time stands still."""
    begun, before = time.monotonic(), _starved()
    while thread.is_alive():
        thread.join(_LOOK_SECONDS)
        elapsed = time.monotonic() - begun
        if elapsed > _STARVED_MOST * seconds or elapsed - (_starved() - before) > seconds:
            break
    return not thread.is_alive()


def _starved() -> float:
    """Seconds for which threads of this process could have run and did not; 0 where the system does not say."""
    total = 0.0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            total += int(path.read_text().split()[1]) / 1e9
    return total


def one_line(error: Exception) -> str:
    """What went wrong, in one line."""
    return f"{type(error).__name__}: {(str(error).strip() or '?').splitlines()[0][:300]}"
