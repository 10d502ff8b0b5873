"""Tracks on Weights & Biases, through the public interface of its SDK."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from study.tracking.tracker import RunInfo

_INIT_SECONDS, _FINISH_SECONDS = 60.0, 8.0

_METRICS = (("success/*", "units"), ("success_low/*", "units"), ("success_high/*", "units"), ("rmsd/*", "units"),
            ("transfer/*", "units"), ("images", "units"), ("gradients", "units"),
            ("live/*", "live/units_done"), ("slots/*", "live/units_done"))  # fmt: skip
"""Pairs of a metric, or a pattern of metrics, and the metric on the x axis of its plots."""

_INTERNAL = {
    "WANDB__DISABLE_MACHINE_INFO": "true",  # Do not upload host name, user and command line.
    "WANDB__SAVE_REQUIREMENTS": "false",
    "WANDB__TRANSACTION_LOG_FLUSH_INTERVAL": "1",  # If all processes are killed, lose at most one second of history.
}
"""Settings that W&B calls internal. They are set as environment variables, because a release of W&B that does not know
such a variable ignores it."""


class WandbTracker:
    """Implements `Tracker` for Weights & Biases."""

    def __init__(self) -> None:
        self._run: Any = None
        self._online = False

    @staticmethod
    def load() -> None:
        """Import W&B's SDK in advance, which takes about a second."""
        os.environ.update(_INTERNAL)
        import wandb  # noqa: F401

    @property
    def address(self) -> str | None:
        return str(self._run.url) if self._online else None

    @property
    def files(self) -> Path:
        return Path(self._run.sync_dir)

    def begin(self, run: RunInfo) -> int | None:
        self.load()
        import wandb

        self._online = run.online
        self._run = wandb.init(
            mode="online" if run.online else "offline",
            id=run.id,
            name=run.name,
            project=run.project,
            entity=run.entity,
            group=run.group,
            tags=list(run.tags),
            job_type="study",
            resume="allow",
            dir=run.folder,
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                save_code=False,
                init_timeout=_INIT_SECONDS,
                login_timeout=5.0,
                finish_timeout=_FINISH_SECONDS,
                finish_timeout_raises=True,
            ),
        )
        self._run.config.update(dict(run.config), allow_val_change=True)
        for name, axis in _METRICS:
            self._run.define_metric(name, step_metric=axis)
        return int(self._run.starting_step) - 1 if run.online else None

    def log(self, row: Mapping[str, float | int], step: int) -> None:
        self._run.log(dict(row), step=step, commit=True)

    def log_results(self, cells: pl.DataFrame, picture: Path, step: int) -> None:
        import wandb

        data = [list(row) for row in cells.iter_rows()]
        table = wandb.Table(columns=[*cells.columns], data=data, allow_mixed_types=True)
        self._run.log({"matrix": table, "matrix_picture": wandb.Image(str(picture))}, step=step, commit=True)

    def log_artifact(self, name: str, kind: str, files: Sequence[Path]) -> None:
        import wandb

        artifact = wandb.Artifact(name, type=kind)
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def finish(self, status: int) -> None:
        import wandb

        self._run.finish(exit_code=status)
        # W&B's service process closes its log when it ends.
        wandb.teardown(exit_code=status)


def upload_command(folders: Sequence[Path]) -> str | None:
    """Return the command that uploads the folders of offline launches; None if no folder is left to upload.

    A folder that `wandb sync` has uploaded, or that no longer exists, is left out.
    """
    left = [str(folder) for folder in folders if folder.is_dir() and not any(folder.glob("*.wandb.synced"))]
    return shlex.join(["wandb", "sync", *left]) if left else None
