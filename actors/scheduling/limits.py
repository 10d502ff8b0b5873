"""How often the scheduler tries a task, and how long it waits for actors, calls and memory."""

from __future__ import annotations

from dataclasses import dataclass

from study.spec.run_options import RunOptions


@dataclass(frozen=True)
class Limits:
    """Limits of attempts and of waiting, in seconds.

    Attributes:
        attempts: How often a task may fail, and how often its actor may die during it.
        start_seconds: Longest wait for all actors at the start. The study then runs with the workers that are up, or
            ends if none is. It is also the longest wait for a replacement if all workers have died.
        call_seconds: An actor that has not answered for this long counts as dead.
        straggler_seconds: A call is repeated on an idle actor once it has run this long, and three times as long as
            similar calls.
        memory_seconds: The study ends if memory is short for this long and no call is answered in this time.
        lost_seconds: The study ends if for this long no worker is up and no machine has room for a worker. Until then,
            a machine may come back.
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
