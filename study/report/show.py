"""`study show`: a run's transfer matrices, read from its Parquet files."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from study.images.selection import Selection
from study.report.finished import begun, opened
from study.report.matrices import print_matrices
from study.run_folder import RunFolder
from study.spec import Spec


def show(run: Path, console: Console) -> None:
    """Print the matrices of the run in folder `run`. Raises StudyError where there is none."""
    if not print_matrices(opened(str(run)), console):
        console.print(f"{run} has no rows yet", markup=False, highlight=False)


def print_so_far(spec: Spec, selection: Selection | None, folder: RunFolder, console: Console) -> None:
    """Print the matrices of a run that a launch is at work on; nothing before images are selected."""
    if selection is not None:
        print_matrices(begun(spec, selection, folder), console)
