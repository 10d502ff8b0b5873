"""The driver gives the tasks of a workload to the workers, and every answer back to the workload."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from actors.backends.interface import CallFailed, DeviceLost
from actors.execution.runtime import Runtime
from actors.scheduling.scheduler import Done, Failed
from study.events import activity

_STEP_SECONDS = 0.5
_STATE_SECONDS = 1.0


@dataclass(frozen=True)
class Progress:
    """The steps of a workload.

    Attributes:
        totals: Number of steps in all, by name.
        finished: Number of steps that earlier launches finished, by name.
        left: Number of steps that this launch has to do.
    """

    totals: Mapping[str, int]
    finished: Mapping[str, int]
    left: int


@dataclass(frozen=True)
class Failure:
    """A unit, or one target of a unit, that failed permanently.

    `target` is None if the whole unit failed. `error` is the message. `traceback` is the traceback in the worker; None
    if no exception was raised there.
    """

    unit: str
    target: str | None
    error: str
    traceback: str | None = None

    @classmethod
    def of(cls, unit: str, target: str | None, error: Exception) -> Failure:
        """Build the failure from the exception."""
        traceback = (error.traceback or None) if isinstance(error, CallFailed | DeviceLost) else None
        return cls(unit, target, str(error).strip() or type(error).__name__, traceback)


@dataclass
class Outcome:
    """The result of a workload.

    Attributes:
        finished: Units that are complete.
        crafted: Units whose attack ran.
        shown: Units whose kept images were shown to targets; no attack ran for them.
        failures: Units, and targets of units, that failed permanently.
        interrupted: The exit status that a signal asks for; None without a signal.
    """

    finished: int = 0
    crafted: int = 0
    shown: int = 0
    failures: list[Failure] = field(default_factory=list)
    interrupted: int | None = None


class Sink(Protocol):
    """A buffer of rows that publishes them from time to time."""

    def tick(self) -> None:
        """Publish the buffer if it is old enough."""

    def flush(self) -> None:
        """Publish the buffer."""


class Workload(Protocol):
    """A kind of work: attack runs, clean predictions, or probes. It makes the tasks and handles their answers.

    The default methods fit a workload whose tasks are all known at the start. Other workloads override them.
    """

    progress: Progress

    @property
    def sinks(self) -> Collection[Sink]:
        """The buffers that answers are written to."""
        return ()

    @property
    def crafts_allowed(self) -> bool:
        """Whether workers may craft more images now; predictions are always allowed."""
        return True

    @property
    def waiting_bytes(self) -> int:
        """Bytes of adversarial images that wait for targets."""
        return 0

    def start(self) -> None:
        """Give the scheduler all tasks that can run now."""

    def give_out(self) -> bool:
        """Give the scheduler tasks that waited for memory; return whether more will follow. Called before each step."""
        return False

    def handle(self, event: Done | Failed) -> None:
        """Handle the answer to a task, or its failure."""

    def finish(self) -> None:
        """Record the units that could not run. Called once all tasks have ended, unless a signal came first."""
        return


def drive(workload: Workload, runtime: Runtime) -> int | None:
    """Run a workload. Returns None once all of its tasks have ended, or the exit status that a signal asks for.

    In either case, and if an exception is raised, the rows that the workload has written are published.
    """
    display, interrupt = runtime.display, runtime.interrupt
    with interrupt.patient():
        display.begin(workload.progress.totals, workload.progress.finished)
        try:
            try:
                workload.start()
                _loop(workload, runtime)
            finally:
                for sink in workload.sinks:
                    sink.flush()
            status = interrupt.status
            if status is None:
                workload.finish()
        finally:
            display.end()
    return status


def _loop(workload: Workload, runtime: Runtime) -> None:
    scheduler = runtime.scheduler
    report = _every_second(lambda: runtime.display.state(scheduler.state(workload.waiting_bytes)))
    # If calls run in this process, a report during a call can only come from the call itself.
    with activity.here.heard(report):
        while (workload.give_out() or not scheduler.idle) and runtime.interrupt.status is None:
            for event in scheduler.step(_STEP_SECONDS, crafts=workload.crafts_allowed):
                workload.handle(event)
            for sink in workload.sinks:
                sink.tick()
            report()


def _every_second(report: Callable[[], None]) -> Callable[[], None]:
    """A function that calls `report`, but at most once a second."""
    last = -math.inf

    def call() -> None:
        nonlocal last
        if time.monotonic() - last >= _STATE_SECONDS:
            last = time.monotonic()
            report()

    return call
