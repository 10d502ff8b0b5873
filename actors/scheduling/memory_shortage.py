"""Measures how long memory on the machines has been short, and decides when a killed actor is started again."""

from __future__ import annotations

from study.errors import StudyError

_SHORTEST, _LONGEST = 1.0, 30.0
"""The shortest and the longest pause before an actor is started again, in seconds. Between these two bounds, the pause
is half the time that the shortage has lasted."""


class MemoryShortage:
    """A shortage of memory, from the first actor that is killed for lack of memory until a call is answered."""

    def __init__(self, limit: float) -> None:
        """`limit`: the longest time that a shortage may last, in seconds."""
        self._limit = limit
        self._since: float | None = None
        self._reason = ""

    @property
    def deadline(self) -> float | None:
        """The time at which the shortage will have lasted too long; None if memory is not short."""
        return None if self._since is None else self._since + self._limit

    def began(self, now: float, error: Exception) -> bool:
        """Record that an actor was killed for lack of memory. Returns whether this is the first one of the shortage."""
        first, self._reason = self._since is None, str(error)
        self._since = now if self._since is None else self._since
        return first

    def end(self) -> None:
        """Record that a call was answered, which ends the shortage."""
        self._since = None

    def is_over_limit(self, now: float) -> bool:
        """Return whether the shortage has lasted too long. Returns False if memory is not short."""
        return self.deadline is not None and now > self.deadline

    def pause(self, now: float) -> float:
        """Return the seconds to wait until another actor is started."""
        return min(_LONGEST, max(_SHORTEST, (now - (self._since or now)) / 2))

    def error(self) -> StudyError:
        """Return the error that ends the study if the shortage lasts too long."""
        return StudyError(
            f"memory has been short for {self._limit:g} s: {self._reason}",
            accepted="enough free memory for the workers: Ray kills workers if more than a fraction of the memory is "
            "in use (RAY_memory_usage_threshold, 0.95 by default)",
            todo="end other programs on the workers' machines, lower run.actors, or raise run.memory_seconds; then "
            "launch again: published results are kept",
            status=1,
        )
