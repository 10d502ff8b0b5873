"""The function that ends a process."""

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

    The interpreter is not finalized, because that takes seconds once torch and Ray are loaded. Threads are not waited
    for. Without `exit_handlers`, the process ends even if a handler would wait for a thread that hangs.
    """
    if exit_handlers:
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            # RuntimeError: a signal handler may have interrupted another flush.
            with contextlib.suppress(AttributeError, BrokenPipeError, RuntimeError):
                stream.flush()
        except (OSError, ValueError):
            status = status or _OUTPUT_LOST
    os._exit(status)
