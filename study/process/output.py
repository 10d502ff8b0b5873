"""Handles a standard output that nobody reads to the end, as in `study show RUN | head`.

The command then still ends with its own exit status, and without an error message.
"""

from __future__ import annotations

import errno
import io
import select
import sys
from typing import Any, cast

_GONE = {errno.EIO, errno.EPIPE, errno.ENXIO}


class LossyFile(io.FileIO):
    """A file that drops output without an error if nobody can read it: the pipe is closed, or the terminal is gone."""

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return len(content)


def drop_unread_output() -> None:
    """Replace `sys.stdout` with a stream on the same file descriptor that drops output if its reader has gone."""
    usual = sys.stdout
    if not isinstance(usual, io.TextIOWrapper):
        return
    raw = LossyFile(usual.fileno(), "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        # If Python runs unbuffered (`python -u`), the new stream has no buffer either.
        cast("io.BufferedWriter", raw) if usual.write_through else io.BufferedWriter(raw),
        encoding=usual.encoding,
        errors=usual.errors,
        line_buffering=usual.line_buffering,
        write_through=usual.write_through,
    )


def reader_has_gone() -> bool:
    """Return whether standard output is a pipe or a terminal that no process reads any more."""
    poll = select.poll()
    poll.register(1, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
