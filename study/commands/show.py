"""`study show`: a run's transfer matrices, read from its Parquet files."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from study.images.selection import Selection
from study.report.tables.matrices import print_matrices
from study.reproducibility.float_environment import recorded
from study.results import integrity
from study.results.run_reader import open_run, run_data
from study.spec.schema import Spec
from study.storage.run_folder import RunFolder
from study.terminal.prose import say


@integrity.reads
def show(run: Path, console: Console) -> None:
    """Print the matrices of the run in folder `run`. Raises StudyError where there is none."""
    finished = open_run(str(run))
    several = recorded(RunFolder(run))
    if not print_matrices(finished, console):
        console.print(f"{run} has no rows yet", markup=False, highlight=False)
    elif len(several) > 1:
        say(console, f"rows come from several kinds of processor or release: {'; '.join(map(str, several))}")


def print_so_far(spec: Spec, selection: Selection | None, folder: RunFolder, console: Console) -> None:
    """Print the matrices of a run that a launch is at work on; nothing before images are selected."""
    if selection is not None:
        print_matrices(run_data(spec, selection, folder), console)
