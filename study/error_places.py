"""Finds the line of a user's code that raised an exception, from its traceback."""

from __future__ import annotations

import traceback
from collections.abc import Callable


def place_in(error: BaseException, *wanted: Callable[[str], bool]) -> str | None:
    """Return the place of the innermost traceback frame with an accepted file; None if no frame has an accepted file.

    A place is text: `<file>, line <n>: <text of the line>`. Each function in `wanted` gets the path of a file, and says
    whether the file is accepted. The functions are tried in order: the first function that accepts a frame decides. For
    a SyntaxError, the line with wrong syntax is the innermost frame.
    """
    frames = list(traceback.extract_tb(error.__traceback__))
    if isinstance(error, SyntaxError) and error.filename is not None and error.lineno:
        frames.append(traceback.FrameSummary(error.filename, error.lineno, ""))
    for accepts in wanted:
        for frame in reversed(frames):
            if accepts(frame.filename):
                return f"{frame.filename}, line {frame.lineno}" + (f": {frame.line}" if frame.line else "")
    return None
