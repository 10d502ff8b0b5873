"""What `study compact` does and prints."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from study.errors import StudyError
from study.results.compact import compact
from study.run_folder import RunFolder


def print_compacted(run: Path, console: Console) -> None:
    """Claim the run, put its parts together and say what came of it. Raises StudyError where there is no run."""
    folder = RunFolder(run)
    if not folder.begun:
        raise StudyError(
            f"{folder.path} is not the run folder of a study that has begun", todo="name the folder of a launched study"
        )
    folder.claim(lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))
    try:
        done = compact(folder)
    finally:
        folder.release()
    line = f"{folder.path}: {done.before:,} parts are now {done.after:,}, with {done.rows:,} rows"
    console.print(line, markup=False, highlight=False, soft_wrap=True)
