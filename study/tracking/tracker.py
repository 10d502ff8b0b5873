"""The interface of a tracking service. `WandbTracker` implements it; another service needs another class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import polars as pl

STRIDE = 1000
"""Number of steps of the tracking service for each unit. The row of history after n units has step n * STRIDE; live
rows use the steps in between."""


@dataclass(frozen=True)
class RunInfo:
    """One run of a tracking service.

    `id` is the same in every launch of the same plan. `config` is plain data. Files of the service go into `folder`, on
    this machine. If `online` is False, the service must not use the network.
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
    """Logs one run. Methods may block and may raise any exception, because the tracker has its own process."""

    @property
    def address(self) -> str | None:
        """URL of the page of the run; None if the run has none."""

    @property
    def files(self) -> Path:
        """Folder with the files of this launch, which a user can upload later if the run is offline."""

    def begin(self, run: RunInfo) -> int | None:
        """Begin the run, or resume it. Returns the last step that the server has; -1 if it has none, None offline."""

    def log(self, row: Mapping[str, float | int], step: int) -> None:
        """Log numbers by metric name. Steps ascend."""

    def log_results(self, cells: pl.DataFrame, picture: Path, step: int) -> None:
        """Log the table of all cells, and the transfer matrix as a PNG file."""

    def log_artifact(self, name: str, kind: str, files: Sequence[Path]) -> None:
        """Upload files under one name."""

    def finish(self, status: int) -> None:
        """End the run with an exit status, after all data is written (offline) or uploaded (online)."""
