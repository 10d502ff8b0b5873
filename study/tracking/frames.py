"""Messages through a pipe: a line of JSON that ends with the number of bytes that follow it, and these bytes."""

from __future__ import annotations

import json
from typing import Any, BinaryIO, NamedTuple

_MOST_LINE = 256 * 2**20


class Frame(NamedTuple):
    """A message of one kind, its data, and bytes that go with it."""

    kind: str
    data: Any
    content: bytes


def write(pipe: BinaryIO, kind: str, data: Any = None, content: bytes | memoryview = b"") -> None:
    """Put one message into `pipe`, whole. Raises OSError where nobody reads it any more."""
    line = json.dumps([kind, len(content), data]).encode() + b"\n"
    pipe.write(line)
    if len(content):
        pipe.write(content)
    pipe.flush()


def read(pipe: BinaryIO) -> Frame | None:
    """The next message; None where there will be no more, also where the last is not whole."""
    line = pipe.readline(_MOST_LINE)
    if not line.endswith(b"\n"):
        return None
    kind, length, data = json.loads(line)
    content = pipe.read(length) if length else b""
    return Frame(kind, data, content) if len(content) == length else None
