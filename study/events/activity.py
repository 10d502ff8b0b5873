"""The activity of this process: the model that it loads, or the step of its attack. Only displays read the activity."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


class Activity:
    """The progress of the call that runs in this process: what is loaded, or the step of an attack.

    Another thread may read `text` at any time. Counting a step takes less than a microsecond.
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
        """Forget the activity of the last call, because a new call begins."""
        self._at = ""
        self._steps = self._done = 0

    @contextlib.contextmanager
    def at(self, what: str) -> Iterator[None]:
        """Return a context in which `text` is `what`, in place of the step."""
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
        """Return a context in which each step and each entry of `at` calls `listener`, in the same thread."""
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
