"""Reads the failures that the last launch of a run recorded in `RUN/failures.json`."""

from __future__ import annotations

from dataclasses import dataclass

from study.storage import json_file
from study.storage.run_folder import RunFolder


@dataclass(frozen=True)
class RecordedFailure:
    """A recorded failure: the error of a unit (an attack run on one shard of images), or of one of its targets."""

    unit: str
    error: str
    target: str | None = None


def failures_of_last_launch(folder: RunFolder) -> list[RecordedFailure]:
    """Return the failures of the run's last launch; empty if there are none. Raises StudyError for a damaged file."""
    try:
        found = json_file.read(
            folder.failures, dict[str, list[RecordedFailure]], todo="remove this file; the next launch writes a new one"
        )
    except FileNotFoundError:
        return []
    return found.get("failures", [])
