"""Runs a command as a process: prints its errors, sets the exit status, handles signals."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable
from typing import NoReturn

from study.errors import StudyError
from study.process.exit import end_process
from study.process.interrupt import Interrupt, Interrupted, stopped_message
from study.process.output import drop_unread_output
from study.safe_text import visible


def run_command(command: Callable[[], object]) -> NoReturn:
    """Run `command` and end the process with its exit status."""
    drop_unread_output()
    with Interrupt() as interrupt:
        status = status_of(command, interrupt)
    end_process(status, exit_handlers=not interrupt.hurried)


def status_of(command: Callable[[], object], interrupt: Interrupt) -> int:
    """Run `command` and return its exit status. If `command` fails, print the reason to standard error."""
    try:
        command()
    except StudyError as error:
        _print_error(f"error: {error}")
        return error.status
    except (Interrupted, KeyboardInterrupt):
        _print_error(stopped_message(shlex.join(["study", *sys.argv[1:]])))
        return interrupt.status or 130
    except SystemExit as end:
        if isinstance(end.code, str):
            _print_error(end.code)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _print_error(text: str) -> None:
    # If the terminal has been closed, there is nobody to print the error for.
    with contextlib.suppress(OSError):
        print(visible(text), file=sys.stderr)
