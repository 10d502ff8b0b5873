"""Whether parts are as they were written: what a folder has of them, what their names promise, and what to do.

A name ends in the digest of the content. Launches, `study compact` and `study verify` compare all of them; what only
reads rows compares them once a query has failed, to name the part that it failed for.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from study.errors import StudyError, first_line
from study.planning import resume
from study.results import versions
from study.storage.places import Place
from study.storage.run_folder import RunFolder

UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException, OSError)
"""What reading a damaged part may raise."""

_MOVE = {
    "results": "move {it} out of results/ and launch the study again: {its} units are run again",
    "geometry": "move {it} out of geometry/ and launch the study again: {its} units are answered again",
    "kept": "look at the run with `study verify`, and do what it says: rows may have been made from {it}",
}
Run = TypeVar("Run", bound=str | Place)
Rest = ParamSpec("Rest")
Result = TypeVar("Result")

_ONE, _MANY = {"it": "it", "its": "its"}, {"it": "them", "its": "their"}
_SHOWN = 5


@dataclass(frozen=True)
class Damage:
    """A part that is not as it was written, in which folder of the run, and what is wrong with it."""

    path: Place
    folder: str
    what: str

    @property
    def todo(self) -> str:
        return _MOVE[self.folder].format(**_ONE)


def parts(folder: Place) -> list[Place]:
    """The parts in a folder of parts, by name; every other file is left alone."""
    found: Iterator[Place] = folder.rglob("*.parquet")
    return sorted((path for path in found if versions.read_name(path.name) is not None), key=str)


def strays(folder: Place) -> list[Place]:
    """Files in a folder of parts that are no parts of ours: no reader of ours looks at them."""
    found: Iterator[Place] = folder.rglob("*")
    others = (path for path in found if versions.read_name(path.name) is None)
    return sorted((path for path in others if path.is_file()), key=str)


def stray_line(found: Sequence[Place]) -> str:
    """For people: files that are not read, and what else they may do."""
    names = ", ".join(path.name for path in found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
    are = "1 file is no part" if len(found) == 1 else f"{len(found)} files are no parts"
    return f"{are} of ours and left alone: {names}"


def wrong(path: Place) -> str | None:
    """What is wrong with a part; None where its content is what its name promises.

    Parts of the first version promise nothing: it is whether they can be read.
    """
    said = versions.read_name(path.name)
    try:
        if said is not None and said.digest is not None and _digest(path) == said.digest:
            return None
        pq.read_metadata(pa.BufferReader(path.read_bytes()))
    except (OSError, pa.ArrowException) as error:
        return f"it cannot be read: {first_line(error)}"
    if said is None or said.digest is None:
        return None
    return "its content is not what was written: the digest in its name is another"


def _digest(path: Place) -> str:
    if not isinstance(path, Path):
        return versions.digest(path.read_bytes())
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[: versions.DIGITS]


def damaged(folder: RunFolder, *names: str) -> list[Damage]:
    """The parts of these folders of a run (`results`, `geometry`, `kept`) that are not as they were written."""
    found = [(name, path) for name in names for path in parts(folder.path / name)]
    # Hashing lets other threads run, and an object store is asked for several at once.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        said = list(pool.map(wrong, [path for _, path in found]))
    return [Damage(path, name, what) for (name, path), what in zip(found, said, strict=True) if what is not None]


def check(folder: RunFolder, say: Callable[[str], None]) -> None:
    """Before a run is written to: StudyError where what was recorded of it, or a part of its rows, is not as it was
    written; `say` is told of files that are no parts."""
    resume.must_be_intact(folder, say)
    found = damaged(folder, "results", "geometry")
    if found:
        raise refusal(folder, found)
    for name in ("results", "geometry", "kept"):
        others = strays(folder.path / name)
        if others:
            say(f"{name}/: {stray_line(others)}")


def refusal(folder: RunFolder, found: Sequence[Damage]) -> StudyError:
    """The error that names damaged parts, and says what to do with them."""
    first, same = found[0], [one for one in found if one.folder == found[0].folder]
    names = "\n            ".join(str(one.path) for one in same[:_SHOWN])
    more = f"\n            and {len(same) - _SHOWN} more: `study verify {folder.path}`" if len(same) > _SHOWN else ""
    if len(found) == 1:
        return StudyError(f"a part is damaged: {first.what}", where=names, todo=first.todo)
    return StudyError(
        f"{len(found)} parts are damaged; of the first, {first.what}",
        where=names + more,
        todo=_MOVE[first.folder].format(**_MANY),
    )


def reads(command: Callable[Concatenate[Run, Rest], Result]) -> Callable[Concatenate[Run, Rest], Result]:
    """A command whose first argument is the run that it reads: within it, see `reading`."""

    @functools.wraps(command)
    def told(run: Run, /, *rest: Rest.args, **named: Rest.kwargs) -> Result:
        with reading(run):
            return command(run, *rest, **named)

    return told


@contextlib.contextmanager
def reading(run: str | Place) -> Iterator[None]:
    """What a query of the rows of `run` cannot read is told as the part that is damaged, and what to do."""
    try:
        yield
    except UNREADABLE as error:
        raise explained(run, error) from error


def explained(run: str | Place, error: BaseException) -> StudyError:
    """The error that a failed query is for people; `error` itself where it is none of ours to explain."""
    folder = RunFolder(run)
    found = damaged(folder, "results", "geometry", "kept")
    if found:
        return refusal(folder, found)
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
        raise error
    return StudyError(
        f"the results in {run} cannot be read: {first_line(error)}", todo="look at the run with `study verify`"
    )
