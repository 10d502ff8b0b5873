"""What this process works at: the model that it loads, or the step of its attack. Only displays read it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


class Activity:
    """The place of the present call in its work. Counting a step takes less than a microsecond.

    Another thread may read `text` at any time.
    """

    def __init__(self) -> None:
        self._at = ""
        self._steps = self._done = 0
        self._listener: Callable[[], None] | None = None

    @property
    def text(self) -> str:
        """The place in words, such as `loading lite0` or `step 34 of 100`; empty if it is not known."""
        if self._at:
            return self._at
        done, steps = self._done, self._steps
        return f"step {min(done, steps):,} of {steps:,}" if done else ""

    def begin(self) -> None:
        """A call begins: forget the last one."""
        self._at = ""
        self._steps = self._done = 0

    @contextlib.contextmanager
    def at(self, what: str) -> Iterator[None]:
        """The block works at `what`, which takes the place of the steps."""
        self._at = what
        self._tell()
        try:
            yield
        finally:
            self._at = ""

    def expect(self, steps: int) -> None:
        """An attack will take so many more steps in this call."""
        self._steps += steps

    def step(self) -> None:
        """One step is done."""
        self._done += 1
        self._tell()

    @contextlib.contextmanager
    def heard(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call `listener` at every change within the block, in the thread that makes it."""
        before, self._listener = self._listener, listener
        try:
            yield
        finally:
            self._listener = before

    def _tell(self) -> None:
        if self._listener is not None:
            self._listener()


here = Activity()
"""Of this process."""
