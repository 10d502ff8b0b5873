"""Ctrl-C and SIGTERM: a request to stop that the loop can see, and a way out for who asks twice."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any


class Interrupted(Exception):
    """The person who started the study has asked it to stop."""


class Interrupt:
    """While entered, the first signal sets `status` (130 or 143) and nothing else; the second ends the process.

    Entered after Ray has started, which installs handlers of its own.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._asked)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raises Interrupted once a signal has come."""
        if self.status is not None:
            raise Interrupted

    def _asked(self, number: int, _: FrameType | None) -> None:
        if self.status is not None:
            os._exit(self.status)
        self.status = 128 + number
