"""The driver's side of the process that logs: a bounded queue into it, its answers, and its certain end."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from study.process import children
from study.tracking import frames

MOST_WAITING = 64 * 2**20
"""Bytes of rows that wait for the process. What is more is left out, and read from the Parquet parts later."""

_Message = tuple[str, Any, pa.Table | None]


class Worker:
    """Never blocks its caller, but in `wait`."""

    def __init__(self, log: Path, kind: children.ProcessKind, environment: Mapping[str, str]) -> None:
        """`environment` is that of a process of `kind`."""
        with log.open("ab") as noise:
            self._process = children.start(
                children.module_command("study.tracking.process"),
                kind,
                environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=noise,
            )
        assert self._process.stdin is not None, "a pipe was asked for"
        assert self._process.stdout is not None, "a pipe was asked for"
        self._lock = threading.Lock()
        self._messages: deque[_Message] = deque()
        self._there = threading.Event()
        self._waiting = 0
        self._dropped = self._over = False
        self._heard: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._service: int | None = None
        self._ready = threading.Event()
        threading.Thread(target=self._write, args=(self._process.stdin,), daemon=True).start()
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()

    @property
    def ready(self) -> bool:
        """Whether its W&B run has begun."""
        return self._ready.is_set()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def rows(self, rows: pa.Table, data: Any) -> None:
        """Hand on the rows of a unit, unless too much is waiting already."""
        if self._waiting + rows.nbytes > MOST_WAITING:
            self._dropped = True
            return
        self._put(("rows", data, rows))

    def send(self, kind: str, data: Any) -> None:
        """Hand on anything small. A look at the state is left out where one is still waiting."""
        if kind == "state" and len(self._messages) > 100:
            return
        if kind in {"state", "end"} and self._dropped:
            self._dropped = False
            self._put(("missed", None, None))
        self._put((kind, data, None))

    def _put(self, message: _Message) -> None:
        with self._lock:
            self._messages.append(message)
            self._waiting += message[2].nbytes if message[2] is not None else 0
        self._there.set()

    def heard(self) -> list[tuple[str, Any]]:
        """What the process has said since."""
        found = []
        while not self._heard.empty():
            found.append(self._heard.get())
        return found

    def wait_ready(self, seconds: float) -> None:
        """Wait for its W&B run to begin, or for its death, no longer than so."""
        until = time.monotonic() + seconds
        while self.alive and time.monotonic() < until and not self._ready.wait(0.05):
            pass

    def hurry(self) -> None:
        """The study's own work is done: let the process have what cores there are, where this one may say so."""
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PGRP, self._process.pid, 0)

    def wait(self, seconds: float) -> int | None:
        """Its exit status; None where it is still there after so long."""
        try:
            return self._process.wait(max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """Whatever is left of it, and of the service that W&B started in it."""
        self._over = True
        self._there.set()
        self._process.kill()
        self._process.wait()
        if self._service is not None and _is_service(self._service):
            os.kill(self._service, signal.SIGKILL)

    def _write(self, pipe: BinaryIO) -> None:
        try:
            while True:
                self._there.wait()
                with self._lock:
                    if not self._messages:
                        if self._over:
                            return
                        self._there.clear()
                        continue
                    kind, data, rows = self._messages.popleft()
                content = b"" if rows is None else _encoded(rows)
                frames.write(pipe, kind, data, content)
                with self._lock:
                    self._waiting -= rows.nbytes if rows is not None else 0
        except OSError:
            # The process has died, which the driver sees when it looks.
            return

    def _read(self, pipe: BinaryIO) -> None:
        while (frame := frames.read(pipe)) is not None:
            if frame.kind == "ready":
                self._service = frame.data["service"]
                self._ready.set()
            self._heard.put((frame.kind, frame.data))


def _encoded(rows: pa.Table) -> memoryview:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    return memoryview(sink.getvalue())


def _is_service(pid: int) -> bool:
    """Whether that process is W&B's service still: an id may have been given to another since."""
    try:
        return b"wandb-core" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
