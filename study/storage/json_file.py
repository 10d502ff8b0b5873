"""JSON files that a launch has written: read in the shape that they were written in, or an error names the file."""

from __future__ import annotations

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from study.errors import StudyError, first_line
from study.storage.places import Place

Shape = TypeVar("Shape")


def read(path: Place, shape: type[Shape], *, todo: str, status: int = 2) -> Shape:
    """What the file at `path` holds, which is of `shape`: any type that pydantic knows.

    FileNotFoundError where there is none. StudyError where it cannot be read, is no JSON, or holds something else;
    `todo` says what to do then.
    """
    try:
        return TypeAdapter(shape).validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        raise
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        what = f"{place}: {first['msg']}" if place else first["msg"]
    except OSError as error:
        what = first_line(error)
    raise StudyError(f"{path} is damaged: {what}", todo=todo, status=status)
