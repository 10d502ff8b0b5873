"""The driver's interface to the tracking process: starts it, sends messages through a bounded queue, reads answers."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from study.process import children
from study.tracking.messages import Message, Ready, Trouble, UnitRows

MOST_WAITING = 64 * 2**20
"""The largest size in bytes of the rows that wait to be sent. Further rows are skipped. The process reads the skipped
rows from the Parquet files later."""


class TrackingProcess:
    """The tracking process, seen from the driver. Only `wait_ready`, `wait` and `kill` block the caller.

    `kill` blocks only until the process has ended, which takes a moment.
    """

    def __init__(self, log: Path, kind: children.ProcessKind, environment: Mapping[str, str]) -> None:
        """Start the process. Its output is appended to the file `log`. Raises OSError if the process cannot start."""
        self._connection, theirs = multiprocessing.Pipe()
        with theirs, log.open("ab") as output:
            self._process = children.start(
                [*children.module_command("study.tracking.process"), str(theirs.fileno())],
                kind,
                environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs.fileno(),),
            )
        self._ready = False
        self._lines: list[str] = []
        self.dropped = False
        """Whether rows were skipped because too many rows waited to be sent."""
        self._queue: deque[Message | None] = deque()
        self._changed = threading.Condition()
        self._waiting = 0
        threading.Thread(target=self._send_all, daemon=True).start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, message: Message) -> None:
        """Put a message into the queue. Rows are skipped if the queue would hold more than `MOST_WAITING` bytes."""
        size = _size(message)
        with self._changed:
            if size and self._waiting + size > MOST_WAITING:
                self.dropped = True
                return
            self._queue.append(message)
            self._waiting += size
            self._changed.notify()

    @property
    def ready(self) -> bool:
        """Whether the run of the tracking service has begun."""
        self._receive()
        return self._ready

    def lines(self) -> list[str]:
        """Return the messages for the user that have arrived since the last call: the URL of the run, and errors."""
        self._receive()
        found, self._lines = self._lines, []
        return found

    def wait_ready(self, seconds: float) -> bool:
        """Wait at most `seconds` until the run has begun or the process has ended.

        Returns whether the run has begun.
        """
        deadline = time.monotonic() + seconds
        while not self.ready and self.alive and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.ready

    def hurry(self) -> None:
        """Give the process the normal priority, if the system allows it. The driver calls this after the study."""
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, 0)

    def wait(self, seconds: float) -> int | None:
        """Wait at most `seconds` for the end of the process. Returns its exit status; None if it is still running."""
        try:
            return self._process.wait(max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End the process at once. The service process of W&B, which it has started, then ends by itself."""
        self._process.kill()
        self._process.wait()
        with self._changed:
            self._queue.append(None)
            self._changed.notify()

    def _receive(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            while self._connection.poll():
                answer = self._connection.recv()
                self._ready |= isinstance(answer, Ready)
                text = answer.text if isinstance(answer, Trouble) else answer.address
                self._lines += [text] if text else []

    def _send_all(self) -> None:
        """Send the messages in the queue to the process. A thread runs this until the process ends."""
        with contextlib.suppress(OSError):
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._queue)
                    message = self._queue.popleft()
                if message is None:
                    return
                self._connection.send(message)
                with self._changed:
                    self._waiting -= _size(message)


def _size(message: Message | None) -> int:
    return int(message.rows.nbytes) if isinstance(message, UnitRows) else 0
