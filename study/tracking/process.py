"""The process that logs a study. If the tracking service hangs or crashes, this process stops, but not the driver.

    python -m study.tracking.process DESCRIPTOR

DESCRIPTOR is the file descriptor of a connection to the driver. The process receives messages until `End`, or until the
driver has ended. Its exit status is 0 if all logged data is written (offline) or uploaded (online).
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path

import polars as pl

from study.tracking.history import History, Row
from study.tracking.messages import Begin, End, LiveMetrics, Ready, RowsWritten, Trouble, UnitRows
from study.tracking.run_files import Logged, logged_path
from study.tracking.tracker import STRIDE, Tracker
from study.tracking.wandb_tracker import WandbTracker

RESULTS_SECONDS = 15.0
"""The seconds for tables, picture and report after the last unit. Results that are not ready in time are left out."""


class RunLog:
    """Logs rows of history and rows on the state of the launch, at ascending steps. Keeps the last step in a file."""

    def __init__(self, begin: Begin, tracker: Tracker, connection: Connection) -> None:
        self._begin = begin
        self._tracker = tracker
        self._connection = connection
        self._path = logged_path(begin.run.folder, begin.run.id)
        self._logged = Logged.read(self._path)
        on_server = tracker.begin(begin.run)
        if on_server is not None:
            # History that is not on the server is logged again from the result rows, so folders of offline launches
            # need no upload.
            self._logged = Logged(step=on_server, unsent=True)
            self._logged.write(self._path)
        self._history = History(begin.outline, max(self._logged.step, 0) // STRIDE)
        self._results: Results | None = None

    def add(self, rows: pl.LazyFrame) -> None:
        """Add result rows to the history, and log the new rows of history."""
        for row in self._history.add(rows):
            self._write(row, int(row["units"]) * STRIDE)

    def replay(self) -> None:
        """Add all result rows in the run folder to the history, and log the new rows of history."""
        from study.results import current_plan

        self.add(current_plan.rows(self._begin.results))

    def live(self, row: Row) -> None:
        """Log a row on the state of the launch at the next step, except if this step belongs to a row of history."""
        step = self._logged.step + 1
        if step % STRIDE:
            self._write({**row, "live/units_done": int(self._history.done.sum())}, step)

    def complete(self, event: RowsWritten) -> None:
        """Log the last rows, and start a thread that makes and logs the final tables and artifacts."""
        if event.replay:
            self.replay()
        self.live(event.live)
        self._results = Results(self._begin, self._tracker, self._logged.step + 1)

    def finish(self, end: End) -> None:
        """Wait until the tables and artifacts are logged, but at most 15 s, and end the run."""
        assert self._results is not None, "RowsWritten comes before End"
        self._results.join(RESULTS_SECONDS)
        trouble = self._results.trouble
        self.close(end.status)
        self._logged.unsent = False
        self._logged.write(self._path)
        if trouble:
            self._connection.send(Trouble(trouble))

    def close(self, status: int) -> None:
        """End the run with the exit status `status`, without waiting for further results."""
        self._tracker.finish(status)

    def _write(self, row: Mapping[str, float | int], step: int) -> None:
        self._tracker.log(row, step)
        self._logged.step = step
        folder = str(self._tracker.files)
        if not self._begin.run.online and folder not in self._logged.offline:
            self._logged.offline.append(folder)
        self._logged.write(self._path)


class Results(threading.Thread):
    """A thread that makes and logs the final tables and artifacts, because calls of the service may block for long."""

    def __init__(self, begin: Begin, tracker: Tracker, step: int) -> None:
        super().__init__(daemon=True)
        self._begin = begin
        self._tracker = tracker
        self._step = step
        self._doing = "the table"
        self._error = ""
        self.start()

    @property
    def trouble(self) -> str:
        """A message about final results that are not logged; empty if all are logged."""
        if self.is_alive():
            return (
                f"results that are not ready after {RESULTS_SECONDS:.0f} s are left out: {self._doing}, "
                "and all later results"
            )
        return f"{self._doing} and all later results are left out: {self._error}" if self._error else ""

    def run(self) -> None:
        try:
            self._log()
        except Exception as error:  # noqa: BLE001 - the history is logged in any case
            traceback.print_exc()
            self._error = one_line(error)

    def _log(self) -> None:
        from study.report.html import document
        from study.tracking import final_results

        name, folder = self._begin.run.id, self._begin.run.folder / "artifacts"
        folder.mkdir(exist_ok=True)
        cells, picture, spec = (folder / file for file in ("cells.csv", "matrix.png", "spec.json"))
        table = final_results.cells(self._begin.results)
        table.write_csv(cells)
        picture.write_bytes(final_results.matrix(table))
        spec.write_text(json.dumps(self._begin.run.config["spec"], indent=2) + "\n")
        self._tracker.log_results(table.head(final_results.MOST_ROWS), picture, self._step)
        self._doing = f"the artifact study-{name}"
        self._tracker.log_artifact(f"study-{name}", "results", [cells, picture, spec])
        self._doing = f"the artifact report-{name}"
        document.write(Path(self._begin.results), folder / "report.html")
        self._tracker.log_artifact(f"report-{name}", "report", [folder / "report.html"])


def main() -> None:
    connection = Connection(int(sys.argv[1]))
    WandbTracker.load()
    status = 1
    try:
        status = _track(connection)
    except EOFError:
        pass  # The driver has ended.
    except Exception as error:  # noqa: BLE001 - the driver prints the error, and decides what to do
        traceback.print_exc()
        connection.send(Trouble(one_line(error)))
    finally:
        sys.stdout.flush()
        # Threads of W&B that hang must not keep the process alive.
        os._exit(status)


def _track(connection: Connection) -> int:
    begin: Begin = connection.recv()
    before = Logged.read(logged_path(begin.run.folder, begin.run.id))
    if not begin.run.online and not begin.left and before.step >= begin.outline.units * STRIDE:
        return 0
    tracker = WandbTracker()
    log = RunLog(begin, tracker, connection)
    connection.send(Ready(tracker.address))
    if begin.replay:
        log.replay()
    _load_report()
    while True:
        try:
            message = connection.recv()
        except EOFError:
            log.close(1)
            return 1
        if isinstance(message, UnitRows):
            log.add(pl.DataFrame(message.rows).lazy())
        elif isinstance(message, LiveMetrics):
            log.live(message.row)
        elif isinstance(message, RowsWritten):
            log.complete(message)
        elif isinstance(message, End):
            log.finish(message)
            return 0


def _load_report() -> None:
    """Import the code of the report and draw an empty figure, to save time after the last unit.

    The first figure in a process takes long, because matplotlib searches for fonts.
    """
    from matplotlib.figure import Figure

    from study.attacks import presets
    from study.report import figures
    from study.report.html import document

    presets.known()
    document.page_template()
    figures.svg(Figure())


def one_line(error: Exception) -> str:
    """Return the class and the first line of the text of an exception, with at most 300 characters of the text."""
    return f"{type(error).__name__}: {(str(error).strip() or '?').splitlines()[0][:300]}"


if __name__ == "__main__":
    main()
