"""Memory that is short on a machine: since when, for how long it is waited for, and what is said in the end. Pure."""

from __future__ import annotations

from study.errors import StudyError

_SHORTEST, _LONGEST = 1.0, 30.0
"""Seconds that an actor's place stays empty; between them, half of how long memory has been short."""


class Shortage:
    """From the first actor that was ended for want of memory, until a call is answered."""

    def __init__(self, most: float) -> None:
        """`most` is how many seconds it may last."""
        self._most = most
        self._since: float | None = None
        self._said = ""

    @property
    def until(self) -> float | None:
        """When it is waited for no longer; None where memory is not short."""
        return None if self._since is None else self._since + self._most

    def began(self, now: float, error: Exception) -> bool:
        """An actor was ended for want of memory; whether it is the first."""
        first, self._said = self._since is None, str(error)
        self._since = now if self._since is None else self._since
        return first

    def end(self) -> None:
        """A call was answered."""
        self._since = None

    def over(self, now: float) -> bool:
        """Whether it has lasted longer than it may."""
        return self.until is not None and now > self.until

    def pause(self, now: float) -> float:
        """Seconds until another actor is tried."""
        return min(_LONGEST, max(_SHORTEST, (now - (self._since or now)) / 2))

    def error(self) -> StudyError:
        """What is said where it lasted too long."""
        return StudyError(
            f"memory has been short for {self._most:g} s: {self._said}",
            accepted="as much free memory as the workers need, below the share of it that Ray lets be used "
            "(RAY_memory_usage_threshold, 0.95 unless it is set)",
            todo="end what else takes memory there, lower run.actors, or raise run.memory_seconds; then launch again: "
            "what was published is kept",
            status=1,
        )
