"""Damage to a run: finds parts that do not match the digest in their name, and advises what to do.

Launches, `study compact` and `study verify` check every part. Commands that only read rows check the parts only after
a query has failed, to name the damaged part.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

import polars as pl
import pyarrow as pa

from study.errors import StudyError, first_line
from study.planning import resume
from study.storage import part_file
from study.storage.paths import StoragePath
from study.storage.run_folder import RunFolder

READ_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException, OSError)
"""All errors that reading a damaged part may raise."""

_ADVICE = {
    "results": "move {it} out of results/ and launch the study again: {its} units run again",
    "geometry": "move {it} out of geometry/ and launch the study again: {its} probe units run again",
    "kept": "check the run with `study verify` and follow its advice: some rows may come from the images in {it}",
}
_SHOWN = 5

Run = TypeVar("Run", bound=str | StoragePath)
Rest = ParamSpec("Rest")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Damage:
    """A damaged part, the folder of the run that holds it (`results`, `geometry`, `kept`), and the problem."""

    path: StoragePath
    folder: str
    problem: str


def advice(folder: str, count: int = 1) -> str:
    """The advice for `count` damaged parts in a folder of the run: `results`, `geometry` or `kept`."""
    it, its = ("the part", "its") if count == 1 else ("these parts", "their")
    return _ADVICE[folder].format(it=it, its=its)


def damaged(folder: RunFolder, *names: str) -> list[Damage]:
    """The damaged parts in these folders of a run: `results`, `geometry`, `kept`."""
    found = [(name, path) for name in names for path in part_file.list_parts(folder.path / name)]
    # Hashing releases the GIL, and S3 answers several requests at once.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        problems = list(pool.map(part_file.damage, [path for _, path in found]))
    return [Damage(path, name, problem) for (name, path), problem in zip(found, problems, strict=True) if problem]


def require_intact(folder: RunFolder, say: Callable[[str], None]) -> None:
    """Check a run before it is written to. Raises StudyError if its spec, models, images or a part is damaged.

    `say` receives a line for each folder with files that are not parts.
    """
    resume.must_be_intact(folder, say)
    found = damaged(folder, "results", "geometry")
    if found:
        raise damage_error(folder, found)
    for name in ("results", "geometry", "kept"):
        strays = part_file.list_strays(folder.path / name)
        if strays:
            say(f"{name}/: {part_file.describe_strays(strays)}")


def damage_error(folder: RunFolder, found: Sequence[Damage]) -> StudyError:
    """Return an error that names damaged parts, with advice."""
    first = found[0]
    where = "\n            ".join(str(each.path) for each in found[:_SHOWN])
    if len(found) > _SHOWN:
        where += f"\n            and {len(found) - _SHOWN} more: `study verify {folder.path}`"
    parts = "a part is damaged" if len(found) == 1 else f"{len(found)} parts are damaged; the first"
    counts = Counter(each.folder for each in found)
    todo = "; ".join(advice(name, count) for name, count in counts.items())
    return StudyError(f"{parts}: {first.problem}", where=where, todo=todo)


def reads(command: Callable[Concatenate[Run, Rest], Result]) -> Callable[Concatenate[Run, Rest], Result]:
    """Decorate a command whose first argument is the run that it reads, so that it runs within `reading`."""

    @functools.wraps(command)
    def wrapper(run: Run, /, *rest: Rest.args, **named: Rest.kwargs) -> Result:
        with reading(run):
            return command(run, *rest, **named)

    return wrapper


@contextlib.contextmanager
def reading(run: str | StoragePath) -> Iterator[None]:
    """Turn the errors of a query on the rows of `run` into a StudyError that names the damaged part."""
    try:
        yield
    except READ_ERRORS as error:
        raise read_error(run, error) from error


def read_error(run: str | StoragePath, error: BaseException) -> StudyError:
    """Return the StudyError for a failed query. Raises `error` itself if the system caused it, not a part."""
    folder = RunFolder(run)
    found = damaged(folder, "results", "geometry", "kept")
    if found:
        return damage_error(folder, found)
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
        raise error
    return StudyError(f"the results in {run} cannot be read: {first_line(error)}", todo=f"run `study verify {run}`")
