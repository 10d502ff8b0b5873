"""Ends a process with an exit status, without waiting for threads."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from typing import NoReturn

_OUTPUT_LOST = 120
"""The exit status that Python uses if its output cannot be written."""


def end_process(status: int, *, exit_handlers: bool = True) -> NoReturn:
    """Run the registered exit handlers, flush both output streams, and end the process with `status`.

    The interpreter is not finalized, because finalization takes seconds if torch and Ray are loaded. The process does
    not wait for its threads. If `exit_handlers` is False, no exit handler runs, because a handler could wait for a
    thread that hangs. If output is lost and `status` is 0, the status becomes 120. Output to a closed pipe does not
    count as lost.
    """
    if exit_handlers:
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            # RuntimeError: this code runs in a signal handler that has interrupted another flush of the stream.
            with contextlib.suppress(AttributeError, BrokenPipeError, RuntimeError):
                stream.flush()
        except (OSError, ValueError):
            status = status or _OUTPUT_LOST
    os._exit(status)
