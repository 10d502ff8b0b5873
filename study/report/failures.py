"""What the last launch of a run set aside: `RUN/failures.json`."""

from __future__ import annotations

from dataclasses import dataclass

from study.storage import json_file
from study.storage.run_folder import RunFolder


@dataclass(frozen=True)
class Failure:
    """A unit, or one target of it, with its error."""

    unit: str
    error: str
    target: str | None = None


def of_launch(folder: RunFolder) -> list[Failure]:
    """What was set aside; nothing where the last launch set nothing aside. StudyError where the file is damaged."""
    try:
        found = json_file.read(
            folder.failures, dict[str, list[Failure]], todo="remove it; the next launch writes it anew"
        )
    except FileNotFoundError:
        return []
    return found.get("failures", [])
