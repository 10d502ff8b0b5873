"""`study show`: a run's transfer matrices, read from its Parquet files."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from study import resume
from study.errors import StudyError
from study.report.matrices import print_matrices
from study.results import intact, present
from study.run_folder import RunFolder


@intact.reads
def show(run: Path, console: Console) -> None:
    """Print the matrices of the run in folder `run`. Raises StudyError where there is none."""
    folder = RunFolder(run)
    if not folder.begun:
        raise StudyError(
            f"{folder.path} is not the run folder of a study that has begun: "
            "it lacks spec.yaml, models.json or images.parquet",
            todo="name the folder of a launched study",
        )
    if not print_matrices(resume.spec_of(folder), present.rows(folder), console):
        console.print(f"{folder.path} has no rows yet", markup=False, highlight=False)
