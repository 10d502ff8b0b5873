"""Turn exceptions of external code into StudyErrors that name the file and line."""

from __future__ import annotations

from pathlib import Path

from study.error_places import place_in
from study.errors import StudyError, first_line

_OURS = Path(__file__).resolve().parents[2]


def failure(name: str, error: BaseException, home: Path | None = None) -> StudyError:
    """Return the StudyError for a user: the attack `name` failed with the exception `error`.

    The StudyError names one line of the traceback: the deepest line in the folder `home` that is not this project's
    code. If there is no such line, or if `home` is None, the StudyError names the deepest line of all code outside this
    project.
    """
    return StudyError(
        f"{name} failed: {type(error).__name__}: {first_line(error)}",
        where=place_in(error, lambda file: _foreign(file) and home is not None and _lies_in(file, home), _foreign),
        todo="correct the attack's arguments or code; in a run, no row of this unit (the attack on one shard) "
        "was written",
    )


def _foreign(file: str) -> bool:
    return not _lies_in(file, _OURS)


def _lies_in(file: str, folder: Path) -> bool:
    return Path(file).resolve().is_relative_to(folder)
