"""Ctrl-C, SIGTERM and SIGHUP: a request to stop, seen wherever the driver is; and the way out of the process."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """The study is asked to stop. As little an error as KeyboardInterrupt: what handles errors must not handle it."""


class Interrupt:
    """While entered, the first signal sets `status` (130, 143 or 129) and raises Interrupted where the main thread is.

    Inside `patient` it only sets `status`, for the code there looks at it. The second signal ends the process with the
    status of the first, after `farewell`. A signal that was ignored when the process began stays ignored: `nohup`.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self.farewell: Callable[[], object] = _nothing
        """Says the last words where a second signal leaves time for no others."""
        self.hurried = False
        self._patient = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        """Raises Interrupted where the Interrupt that was entered before has seen a signal."""
        if _entered:
            self.status = _entered[-1].status
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._asked)
        _entered.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _entered.remove(self)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def leave(self, status: int) -> NoReturn:
        """End the process with `status`, also where a thread hangs in code that cannot be interrupted."""
        if self.hurried:
            for stream in (sys.stdout, sys.stderr):
                # A terminal that is gone takes no words.
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            os._exit(status)
        sys.exit(status)

    def check(self) -> None:
        """Raises Interrupted once a signal has come."""
        if self.status is not None:
            raise Interrupted

    def settle(self) -> None:
        """How the study ended is said: from now on the first signal interrupts nothing."""
        self._patient += 1

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """In here a signal interrupts nothing: what is begun is ended by code that looks at `status`."""
        self._patient += 1
        try:
            yield
        finally:
            self._patient -= 1

    def _asked(self, number: int, _: FrameType | None) -> None:
        if self.status is not None:
            with contextlib.suppress(Exception):
                self.farewell()
            os._exit(self.status)
        self.status = 128 + number
        if not self._patient:
            raise Interrupted


def hurry() -> None:
    """From now on `leave` waits for no thread: one may hang, or be at what nobody wants to know any more."""
    for one in _entered:
        one.hurried = True


def _nothing() -> None: ...


_entered: list[Interrupt] = []
