"""`study compact`: merge the Parquet files (parts) of a run."""

from __future__ import annotations

from rich.console import Console

from study.results.compact import compact
from study.storage.no_run import no_run
from study.storage.run_folder import RunFolder
from study.terminal.prose import say
from study.terminal.screen import counted


def compact_run(run: str, console: Console) -> None:
    """Merge the Parquet files (parts) of the run at `run`, and print the number of files before and after.

    Raises StudyError if there is no run, or if another process uses the run folder.
    """
    folder = RunFolder(run)
    if not folder.begun:
        raise no_run(folder.path, f"{folder.path} is not a run folder")
    folder.claim(lambda line: say(console, line))
    try:
        done = compact(folder)
    finally:
        folder.release()
    parts = f"{counted(done.before, 'part')} before, {done.after:,} after"
    say(console, f"{folder.path}: {parts}, with {counted(done.rows, 'row')}")
