"""Reads the JSON files of a run and checks their structure."""

from __future__ import annotations

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from study.errors import StudyError, first_line
from study.storage.paths import StoragePath

Content = TypeVar("Content")


def read(path: StoragePath, kind: type[Content], *, todo: str, status: int = 2) -> Content:
    """Return the content of the JSON file at `path`, validated as the type `kind`. Pydantic must support this type.

    Raises FileNotFoundError if the file does not exist. Raises StudyError if the file cannot be read, is not JSON, or
    does not have the structure of `kind`. `todo` (what to do) and `status` (exit status) are those of the StudyError.
    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        raise
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        problem = f"{field}: {first['msg']}" if field else first["msg"]
    except OSError as error:
        problem = first_line(error)
    raise StudyError(f"{path} is damaged: {problem}", todo=todo, status=status)
