"""The end of a command: its exit status is told at once, and no interpreter takes torch and Ray apart first."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from typing import NoReturn

_BROKEN_PIPE = 120
"""What Python itself exits with where its output cannot be written."""


def leave(main: Callable[[], None]) -> NoReturn:
    """Run `main`, carry out what was registered for the end, flush, and end the process with the status of `main`.

    Taking modules apart takes seconds of a processor once torch and Ray are loaded, and a launch has been complete
    before. Another exception than SystemExit ends the process as Python does.
    """
    status: object = 0
    try:
        main()
    except SystemExit as ended:
        status = ended.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
    atexit._run_exitfuncs()
    code = status if isinstance(status, int) else int(status is not None)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or _BROKEN_PIPE
    os._exit(code)
