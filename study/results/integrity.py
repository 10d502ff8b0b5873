"""Finds the damaged parts of a run, and advises what to do.

A part is a Parquet file whose name has the digest of its content. A part is damaged if its content does not match this
digest. Launches check the parts in results/ and geometry/, `study compact` and `study judge` those in results/, and
`study verify` all. A part of kept images is also checked when its images are used. Commands that only read rows check
the parts only after a query has failed, to name the damaged part.
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
    """A damaged part (Parquet file of a run). `folder` is its folder in the run: `results`, `geometry` or `kept`."""

    path: StoragePath
    folder: str
    problem: str


def advice(folder: str, count: int = 1) -> str:
    """Return a text on what to do about `count` damaged parts (Parquet files) in a folder of the run.

    `folder` is `results`, `geometry` or `kept`.
    """
    it, its = ("the part", "its") if count == 1 else ("these parts", "their")
    return _ADVICE[folder].format(it=it, its=its)


def damaged(folder: RunFolder, *names: str) -> list[Damage]:
    """Return the damaged parts (Parquet files) in the given folders of a run: `results`, `geometry` or `kept`."""
    found = [(name, path) for name in names for path in part_file.list_parts(folder.path / name)]
    # Hashing releases the GIL, and S3 answers several requests at once.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        problems = list(pool.map(part_file.damage, [path for _, path in found]))
    return [Damage(path, name, problem) for (name, path), problem in zip(found, problems, strict=True) if problem]


def require_intact(folder: RunFolder, say: Callable[[str], None]) -> None:
    """Raise StudyError if the spec, the models, the selected images, or a part (Parquet file) of a run is damaged.

    A launch calls this before it writes to the run. Parts of kept images are not checked here. `say` receives a line
    for each folder that has files other than parts.
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
    """Return the error for damaged parts. It names up to five of them and says what to do."""
    first = found[0]
    where = "\n            ".join(str(each.path) for each in found[:_SHOWN])
    if len(found) > _SHOWN:
        where += f"\n            and {len(found) - _SHOWN} more: `study verify {folder.path}`"
    parts = "a part is damaged" if len(found) == 1 else f"{len(found)} parts are damaged; the first"
    counts = Counter(each.folder for each in found)
    todo = "; ".join(advice(name, count) for name, count in counts.items())
    return StudyError(f"{parts}: {first.problem}", where=where, todo=todo)


def reads(command: Callable[Concatenate[Run, Rest], Result]) -> Callable[Concatenate[Run, Rest], Result]:
    """Decorate a command so that it runs within `reading`. The first argument of the command is the run to read."""

    @functools.wraps(command)
    def wrapper(run: Run, /, *rest: Rest.args, **named: Rest.kwargs) -> Result:
        with reading(run):
            return command(run, *rest, **named)

    return wrapper


@contextlib.contextmanager
def reading(run: str | StoragePath) -> Iterator[None]:
    """Turn an error of a query on the rows of `run` into a StudyError that names the damaged part, if there is one."""
    try:
        yield
    except READ_ERRORS as error:
        raise read_error(run, error) from error


def read_error(run: str | StoragePath, error: BaseException) -> StudyError:
    """Return the StudyError for the error of a failed query on the rows of `run`.

    Raises `error` itself if no part is damaged and the operating system caused the error.
    """
    folder = RunFolder(run)
    found = damaged(folder, "results", "geometry", "kept")
    if found:
        return damage_error(folder, found)
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
        raise error
    return StudyError(f"the results in {run} cannot be read: {first_line(error)}", todo=f"run `study verify {run}`")
