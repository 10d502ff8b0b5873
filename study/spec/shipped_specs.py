"""The specs that come with the project, by name. For example, `study launch quickstart` works in every folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from study.distribution import shipped
from study.errors import StudyError
from study.errors import names as listed
from study.storage.no_run import RUNS, is_run

_SUFFIX = ".yaml"
_PURPOSE = re.compile(r'(?:"[^"]*"|[^".:]|(?<=\bal)\.|[.:](?!\s|$))*')
"""A pattern that matches the first sentence of a text, or the part of this sentence before a colon.

It never cuts a quote, and "et al." does not end the sentence.
"""
_NEEDED = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class ShippedSpec:
    """A spec that comes with the project.

    Attributes:
        name: The path of its file below `specs/`, without `.yaml`, such as `quickstart` or `small/liu2017`.
        path: The path of its file.
        purpose: The first sentence of the comment at the top of its file, or the part of this sentence before a colon.
        needs: The names of the environment variables that must be set.
    """

    name: str
    path: Path
    purpose: str
    needs: tuple[str, ...]

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")


def names() -> list[str]:
    """Return the names of all shipped specs: first those directly in `specs/`, then those in its subfolders."""
    folder = shipped("specs")
    found = [path.relative_to(folder).with_suffix("") for path in folder.rglob(f"*{_SUFFIX}")]
    return [path.as_posix() for path in sorted(found, key=lambda path: (len(path.parts), path))]


def spec_named(name: str) -> ShippedSpec:
    """Return the shipped spec of this name. Raises StudyError if there is none."""
    if name not in names():
        raise StudyError(f"the project has no spec named '{name}'", accepted=listed(names(), name))
    path = shipped("specs") / f"{name}{_SUFFIX}"
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.removeprefix("# ") for line in lines[1 : _first(lines, "#")])
    values = "\n".join(line for line in lines if not line.startswith("#"))
    purpose = _PURPOSE.match(comment)
    assert purpose is not None, "the pattern also matches nothing"
    return ShippedSpec(name, path, purpose[0], tuple(dict.fromkeys(_NEEDED.findall(values))))


def located(given: Path) -> Path:
    """Return the path of the spec that `given` means: the file at this path, else the shipped spec of this name.

    Raises StudyError if there is neither. If the path cannot be read, the function returns `given`, and the code that
    reads the file raises the error.
    """
    missing = ""
    try:
        if not given.is_dir():
            given.stat()
            return given
    except (FileNotFoundError, NotADirectoryError) as error:
        missing = error.strerror or str(error)
    except (OSError, ValueError):
        # The code that reads the file at this path raises an error with the reason, as it does for a folder.
        return given
    known = names()
    if str(given) in known:
        return shipped("specs") / f"{given}{_SUFFIX}"
    if not missing:
        return given
    if is_run(RUNS / given):
        raise StudyError(
            f"{given} is no spec, but there is a run folder of that name: {RUNS / given}",
            accepted="the YAML file that was launched",
            todo=f"name the YAML file in this command; name {RUNS / given} in commands that read a run",
        )
    name = given.with_suffix("").as_posix().removeprefix("specs/")
    raise StudyError(
        f"the spec {given} cannot be read: {missing}, and no shipped spec has that name",
        where=str(given),
        accepted=f"a YAML file, or one of {listed(known, name)}",
        todo=f"write `{name}`, without `specs/` and without ending, for the shipped spec"
        if name in known
        else "`study specs` lists the shipped specs",
    )


def _first(lines: list[str], wanted: str) -> int:
    """Return the index of the first line that equals `wanted` or is no comment.

    The line with index 0 does not count.
    """
    return next(index for index, line in enumerate(lines) if index and (line == wanted or not line.startswith("#")))
