"""Exceptions from somebody else's code as errors that name the file and line."""

from __future__ import annotations

import traceback
from pathlib import Path

from study.errors import StudyError, first_line

_OURS = Path(__file__).resolve().parents[2]


def failure(name: str, error: BaseException, home: Path | None = None) -> StudyError:
    """The error for a user: `name` failed with `error`. It points at the deepest line in the folder `home`, if any."""
    return StudyError(
        f"{name} failed: {type(error).__name__}: {first_line(error)}",
        where=_place(error, home),
        todo="correct its arguments or its code; no row of this unit was written",
    )


def _place(error: BaseException, home: Path | None) -> str | None:
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    foreign = [frame for frame in frames if not Path(frame.filename).resolve().is_relative_to(_OURS)]
    inside = [frame for frame in foreign if home is not None and Path(frame.filename).resolve().is_relative_to(home)]
    for frame in reversed(inside or foreign):
        return f"{frame.filename}, line {frame.lineno}: {frame.line}"
    return None
