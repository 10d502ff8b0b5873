"""Turns Ctrl-C, SIGTERM and SIGHUP into a request to stop, which reaches the main thread at any point."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from study.process.exit import end_process

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """Raised in the main thread when a signal asks the study to stop.

    Like KeyboardInterrupt, this class is no subclass of Exception, so `except Exception` does not catch it.
    """


class Interrupt:
    """A context in which the first signal sets `status` (130, 143 or 129) and raises Interrupted in the main thread.

    Inside `patient`, the first signal only sets `status`, and the code there checks `status` itself. The second signal
    calls `farewell` and ends the process with `status`. If the process belongs to another program, such as a notebook
    (`ends_process` is False), the second signal raises Interrupted instead, even inside `patient`.

    A signal that the process ignored from the start (`nohup`) stays ignored. Only the main thread of a process can
    handle signals, so an Interrupt in another thread sees no signal.
    """

    def __init__(self, *, ends_process: bool = True) -> None:
        """`ends_process`: whether a second signal ends the process. A nested Interrupt uses the outer value."""
        self.status: int | None = None
        self.farewell: Callable[[], object] = _nothing
        """The function that prints the last lines if a second signal ends the process."""
        self.hurried = False
        self._ends_process = ends_process
        self._patient = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        """Install the signal handlers. If an outer Interrupt has seen a signal, `check` raises Interrupted at once."""
        if _entered:
            self.status = _entered[-1].status
            self._ends_process = _entered[-1]._ends_process
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        _entered.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _entered.remove(self)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def check(self) -> None:
        """Raise Interrupted if this process has received a signal."""
        if self.status is not None:
            raise Interrupted

    def settle(self) -> None:
        """Let the first signal only set `status` from now on, because the outcome of the study is already printed."""
        self._patient += 1

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """Return a context in which the first signal only sets `status`. The code inside checks `status` itself."""
        self._patient += 1
        try:
            yield
        finally:
            self._patient -= 1

    @contextlib.contextmanager
    def impatient(self) -> Iterator[None]:
        """Return a context in which the first signal raises Interrupted, even inside `patient`.

        The context is for work whose results may be lost. A signal before the context raises Interrupted at its start.
        """
        before, self._patient = self._patient, 0
        try:
            self.check()
            yield
        finally:
            self._patient = before

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.status is not None:
            if not self._ends_process:
                raise Interrupted
            with contextlib.suppress(Exception):
                self.farewell()
            end_process(self.status, exit_handlers=False)
        self.status = 128 + number
        if not self._patient:
            raise Interrupted


def stopped_message(command: str) -> str:
    """Return the last message of an interrupted command. `command`: the command line that continues the work."""
    return f"stopped; finished work is kept. Continue with: {command}"


def hurry() -> None:
    """Skip the exit handlers when the process ends later, because a handler may wait for a thread that hangs."""
    for one in _entered:
        one.hurried = True


def _nothing() -> None: ...


_entered: list[Interrupt] = []
