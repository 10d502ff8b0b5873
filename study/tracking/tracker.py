"""The interface of a tracking service. `WandbTracker` implements it; another service needs another class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import polars as pl

STRIDE = 1000
"""Number of steps of the tracking service for each unit. The row of history after n units has the step n * STRIDE. Rows
on the state of the launch use the steps in between."""


@dataclass(frozen=True)
class RunInfo:
    """The description of one run of a tracking service.

    `id` is the same in every launch of the same plan. `config` is plain data. `folder` is a folder on this machine for
    the files of the service. If `online` is False, the service must not use the network.
    """

    id: str
    name: str
    project: str
    entity: str | None
    group: str | None
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    folder: Path
    online: bool


class Tracker(Protocol):
    """The interface of a tracking service for one run.

    A method may block and may raise any exception, because the tracker runs in its own process.
    """

    @property
    def address(self) -> str | None:
        """The URL of the page of the run; None if the run has no page."""

    @property
    def files(self) -> Path:
        """The folder with the files of this launch. If the run is offline, a user can upload this folder later."""

    def begin(self, run: RunInfo) -> int | None:
        """Begin the run, or resume it. Returns the last step that the server has, or -1 if it has no step.

        Returns None if the run is offline.
        """

    def log(self, row: Mapping[str, float | int], step: int) -> None:
        """Log `row`, numbers by metric name, at `step`. Each call has a larger step than the call before."""

    def log_results(self, cells: pl.DataFrame, picture: Path, step: int) -> None:
        """Log the table of all cells and the transfer matrix, a PNG file, at `step`."""

    def log_artifact(self, name: str, kind: str, files: Sequence[Path]) -> None:
        """Log `files` as one artifact with the name `name` and the type `kind`."""

    def finish(self, status: int) -> None:
        """End the run with the exit status `status`, after all data is written (offline) or uploaded (online)."""
