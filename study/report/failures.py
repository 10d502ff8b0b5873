"""Reads the failures that the last launch of a run recorded in `RUN/failures.json`."""

from __future__ import annotations

from dataclasses import dataclass

from study.storage import json_file
from study.storage.run_folder import RunFolder


@dataclass(frozen=True)
class RecordedFailure:
    """The error of a unit, or of one of its targets."""

    unit: str
    error: str
    target: str | None = None


def failures_of_last_launch(folder: RunFolder) -> list[RecordedFailure]:
    """The recorded failures; empty if there is no file. Raises StudyError for a damaged file."""
    try:
        found = json_file.read(
            folder.failures, dict[str, list[RecordedFailure]], todo="remove it; the next launch writes it again"
        )
    except FileNotFoundError:
        return []
    return found.get("failures", [])
