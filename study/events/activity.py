"""The activity of this process: the model that it loads, or the step of its attack. Only displays read the activity."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


class Activity:
    """How far the running call of this process is. Counting a step takes less than a microsecond.

    Another thread may read `text` at any time.
    """

    def __init__(self) -> None:
        self._at = ""
        self._steps = self._done = 0
        self._listener: Callable[[], None] | None = None

    @property
    def text(self) -> str:
        """The activity in words, such as `loading lite0` or `step 34 of 100`; empty if it is not known."""
        if self._at:
            return self._at
        done, steps = self._done, self._steps
        return f"step {min(done, steps):,} of {steps:,}" if done else ""

    def begin(self) -> None:
        """Begin a call: forget the activity of the last call."""
        self._at = ""
        self._steps = self._done = 0

    @contextlib.contextmanager
    def at(self, what: str) -> Iterator[None]:
        """A context in which `text` is `what` instead of the step."""
        self._at = what
        self._tell()
        try:
            yield
        finally:
            self._at = ""

    def expect(self, steps: int) -> None:
        """Announce that an attack will take `steps` further steps in this call."""
        self._steps += steps

    def step(self) -> None:
        """Count one step as done."""
        self._done += 1
        self._tell()

    @contextlib.contextmanager
    def heard(self, listener: Callable[[], None]) -> Iterator[None]:
        """A context in which `listener` is called at every change, in the thread that makes the change."""
        before, self._listener = self._listener, listener
        try:
            yield
        finally:
            self._listener = before

    def _tell(self) -> None:
        if self._listener is not None:
            self._listener()


here = Activity()
"""The activity of this process."""
