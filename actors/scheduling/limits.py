"""How often the scheduler tries a task, and how long it waits for actors, calls and memory."""

from __future__ import annotations

from dataclasses import dataclass

from study.spec.run_options import RunOptions


@dataclass(frozen=True)
class Limits:
    """Limits of patience.

    Attributes:
        attempts: How often a task may fail, and how often its actor may die during it.
        start_seconds: Time until the first worker is up, or, where all have died, the first replacement.
        call_seconds: Time after which an actor that does not answer counts as dead.
        straggler_seconds: A call is repeated on an idle actor once it has run this long, and three times as long as
            similar calls.
        memory_seconds: How long machines may lack memory, with no call answered, before the study ends.
        lost_seconds: How long all workers and their machines may be gone before the study ends: one may come back.
    """

    attempts: int = 3
    start_seconds: float = 300.0
    call_seconds: float = 3600.0
    straggler_seconds: float = 30.0
    memory_seconds: float = 600.0
    lost_seconds: float = 40.0

    @classmethod
    def of(cls, run: RunOptions) -> Limits:
        """The limits of a spec."""
        return cls(
            attempts=run.attempts,
            start_seconds=run.start_seconds,
            call_seconds=run.call_seconds,
            straggler_seconds=run.straggler_seconds,
            memory_seconds=run.memory_seconds,
            lost_seconds=run.lost_seconds,
        )
