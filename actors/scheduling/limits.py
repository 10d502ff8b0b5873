"""The limits of the scheduler: how often it tries a task, and how long it waits for actors, calls and memory."""

from __future__ import annotations

from dataclasses import dataclass

from study.spec.run_options import RunOptions


@dataclass(frozen=True)
class Limits:
    """The largest number of attempts, and the longest times to wait, in seconds.

    Attributes:
        attempts: Number of attempts at a task. Errors, and deaths of actors during the task, are counted separately.
            It is also how many actors in a row may die or fail to start before one answers a call.
        start_seconds: Longest wait for all actors at the start. After it, the study runs with the workers that are up,
            or ends if no worker, or not every service, is up. It is also the longest wait for a replacement if all
            workers have died.
        call_seconds: An actor that works on one call for longer than this counts as dead.
        straggler_seconds: A call is repeated on an idle actor if it has run for this long, and three times as long as
            similar calls take.
        memory_seconds: The study ends if memory is short for this long. A shortage begins when an actor is killed for
            lack of memory, and ends when a call is answered.
        lost_seconds: The study ends if, for this long, no worker is up and no worker fits on a machine. A lost machine
            may come back in this time.
    """

    attempts: int = 3
    start_seconds: float = 300.0
    call_seconds: float = 3600.0
    straggler_seconds: float = 30.0
    memory_seconds: float = 600.0
    lost_seconds: float = 40.0

    @classmethod
    def of(cls, run: RunOptions) -> Limits:
        """Return the limits that a spec sets in its section `run`."""
        return cls(
            attempts=run.attempts,
            start_seconds=run.start_seconds,
            call_seconds=run.call_seconds,
            straggler_seconds=run.straggler_seconds,
            memory_seconds=run.memory_seconds,
            lost_seconds=run.lost_seconds,
        )
