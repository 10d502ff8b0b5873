"""Finds the line of a user's code that raised an exception, from its traceback."""

from __future__ import annotations

import traceback
from collections.abc import Callable


def place_in(error: BaseException, *wanted: Callable[[str], bool]) -> str | None:
    """Return the place of the innermost frame whose file `wanted` accepts; None if it accepts no frame's file.

    A place is text: `<file>, line <n>: <text of the line>`. The functions in `wanted` are tried in order, and the first
    function that accepts the file of any frame decides. A syntax error counts as a frame at its own line.
    """
    frames = list(traceback.extract_tb(error.__traceback__))
    if isinstance(error, SyntaxError) and error.filename is not None and error.lineno:
        frames.append(traceback.FrameSummary(error.filename, error.lineno, ""))
    for accepts in wanted:
        for frame in reversed(frames):
            if accepts(frame.filename):
                return f"{frame.filename}, line {frame.lineno}" + (f": {frame.line}" if frame.line else "")
    return None
