"""What `study compact` does and prints."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from study.errors import StudyError
from study.results.compact import compact
from study.storage.run_folder import RunFolder
from study.terminal.prose import say


def print_compacted(run: Path, console: Console) -> None:
    """Claim the run, put its parts together and say what came of it. Raises StudyError where there is no run."""
    folder = RunFolder(run)
    if not folder.begun:
        raise StudyError(
            f"{folder.path} is not the run folder of a study that has begun", todo="name the folder of a launched study"
        )
    folder.claim(lambda line: say(console, line))
    try:
        done = compact(folder)
    finally:
        folder.release()
    line = f"{folder.path}: {done.before:,} parts are now {done.after:,}, with {done.rows:,} rows"
    say(console, line)
