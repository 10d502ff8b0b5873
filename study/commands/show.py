"""`study show`: print the transfer matrices of a run."""

from __future__ import annotations

import polars as pl
from rich.console import Console

from study.analysis.experiments import of_experiment
from study.images.selection import Selection
from study.report.tables.matrices import print_matrices
from study.report.tables.visibility import print_visibility
from study.reproducibility.float_environment import recorded
from study.results import integrity
from study.results.run_reader import RunData, open_run, run_data
from study.spec.schema import Spec
from study.storage.run_folder import RunFolder
from study.terminal.prose import say


@integrity.reads
def print_run(run: str, console: Console, *, visible: bool = False, clean_correct: bool = False) -> None:
    """Print the transfer matrices of the run at `run`, or, if `visible`, success, cost and visibility of its attacks.

    With `clean_correct`, a matrix has two rates in each cell: over all images, and over the images that the target
    classifies correctly when clean. Raises StudyError if there is no run.
    """
    environments = recorded(RunFolder(run))
    finished = open_run(run)
    shown = (
        print_visibility(finished, console)
        if visible
        else print_matrices(finished, console, clean_correct=clean_correct)
    )
    if not shown and visible and _has_minimal(finished):
        say(
            console,
            f"{run} has rows, but no table of visibility, which leaves out attacks that search the minimal RMSD. "
            f"Their rates and RMSDs: study show {run}",
        )
    elif not shown:
        say(console, f"{run} has no rows yet")
    elif len(environments) > 1:
        kinds = "; ".join(map(str, environments))
        say(console, f"The rows were computed on several kinds of processor, or with several library versions: {kinds}")


def _has_minimal(finished: RunData) -> bool:
    """Return whether an experiment of the spec has rows of an attack that searches the minimal RMSD."""
    minimal = [name for name, attack in finished.spec.attacks.items() if attack.budget.minimal is not None]
    rows = finished.rows.filter(pl.col("attack").is_in(minimal))
    return any(
        not of_experiment(rows, finished.spec, name).head(1).collect().is_empty() for name in finished.spec.experiments
    )


def print_so_far(spec: Spec, selection: Selection | None, folder: RunFolder, console: Console) -> None:
    """Print the transfer matrices of a run at the end of its launch. If no images are selected yet, print nothing."""
    if selection is not None:
        print_matrices(run_data(spec, selection, folder), console)
