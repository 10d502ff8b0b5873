"""Writes RUN/status.json, the state of a launch, for `study status` in another terminal."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from study.errors import StudyError
from study.events.observer import Ended, Observer, Started, State
from study.events.run_state import RunState
from study.storage.paths import StoragePath
from study.storage.run_folder import RunFolder
from study.storage.s3_path import S3Path

_SECONDS, _SECONDS_AWAY = 3.0, 30.0


def path_of(folder: RunFolder) -> StoragePath:
    """Return the path of status.json in the run folder."""
    return folder.path / "status.json"


class StatusFile(Observer):
    """An observer that writes the state of a launch to status.json.

    The file is written every 3 s (30 s in an object store), and at the end. Outside object stores, it is also written
    at each message before the first unit (an attack run on one shard of the images). The observer writes for the first
    time when the launch first waits, or when the launch fails before. A launch with nothing to do never waits, so the
    status.json of the previous launch stays unchanged. If a write fails, the observer calls `complain` once and writes
    no more. The study continues.
    """

    def __init__(
        self,
        folder: RunFolder,
        state: RunState,
        complain: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._state = state
        self._complain = complain
        self._clock = clock
        self._between = _SECONDS_AWAY if isinstance(folder.path, S3Path) else _SECONDS
        self._told: float | None = None
        self._starting = True
        self._begun = datetime.now().astimezone().isoformat(timespec="seconds")
        self._broken = False

    def say(self, line: str) -> None:
        # Before the first unit, each message announces a new phase of the launch.
        if self._starting and self._told is not None and not isinstance(self._folder.path, S3Path):
            self._write()

    def wait(self) -> None:
        self._write_if_due()

    def started(self, event: Started) -> None:
        self._starting = False
        self._write()

    def state(self, event: State) -> None:
        self._write_if_due()

    def _write_if_due(self) -> None:
        if self._told is None or self._clock() - self._told >= self._between:
            self._write()

    def ended(self, event: Ended) -> None:
        self._write(ended=True, status=event.status, units_left=event.left)

    def refused(self, error: StudyError) -> None:
        """Record the error that ends the launch."""
        self._write(ended=True, status=error.status, error=str(error))

    def _write(self, **said: Any) -> None:
        self._told = self._clock()
        if self._broken:
            return
        data = {
            "study": self._state.study,
            "process": os.getpid(),
            "host": socket.gethostname(),
            "begun": self._begun,
            "written": datetime.now().astimezone().isoformat(timespec="seconds"),
            "ended": False,
            "status": None,
            "units_left": None,
            "error": None,
            **self._state.as_dict(),
            **said,
        }
        try:
            self._folder.publish(path_of(self._folder), (json.dumps(data, indent=1) + "\n").encode())
        except StudyError as error:
            self._broken = True
            self._complain(f"status.json cannot be written and is no longer updated: {error.what}")
