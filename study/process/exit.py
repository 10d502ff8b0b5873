"""The one way out of a process."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from typing import NoReturn

_OUTPUT_LOST = 120
"""The exit status of Python itself if its output cannot be written."""


def end_process(status: int, *, exit_handlers: bool = True) -> NoReturn:
    """Run the registered exit handlers, flush both output streams, and end the process with `status`.

    The interpreter is not finalized, which takes seconds once torch and Ray are loaded, and no thread is waited for.
    Without `exit_handlers` the process ends even if a handler would wait for a thread that hangs.
    """
    if exit_handlers:
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            # A signal handler may interrupt a flush: RuntimeError.
            with contextlib.suppress(AttributeError, BrokenPipeError, RuntimeError):
                stream.flush()
        except (OSError, ValueError):
            status = status or _OUTPUT_LOST
    os._exit(status)
