"""The driver gives the tasks of a workload to workers, and the answers back to the workload."""

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
    """How far a workload is, in steps. A step is a unit of an experiment or probe, or a call of the clean pass.

    Attributes:
        totals: Number of all steps, by name of the experiment, the probe or the clean pass.
        finished: Number of steps that earlier launches finished, by the same names.
        left: Number of steps that this launch has to do.
    """

    totals: Mapping[str, int]
    finished: Mapping[str, int]
    left: int


@dataclass(frozen=True)
class Failure:
    """A unit, or one target of a unit, that has failed for good.

    Attributes:
        unit: The id of the unit.
        target: The name of the target that failed; None if the whole unit failed.
        error: The message of the error.
        traceback: The traceback in the worker. None for a StudyError, and if no exception was raised there.
    """

    unit: str
    target: str | None
    error: str
    traceback: str | None = None

    @classmethod
    def of(cls, unit: str, target: str | None, error: Exception) -> Failure:
        """Return the failure that describes `error`."""
        traceback = (error.traceback or None) if isinstance(error, CallFailed | DeviceLost) else None
        return cls(unit, target, str(error).strip() or type(error).__name__, traceback)


@dataclass
class Outcome:
    """The result of a workload.

    Attributes:
        finished: Number of units that are complete.
        crafted: Number of units whose attack ran.
        shown: Number of units whose kept images were shown to targets. No attack ran for them.
        failures: The units, and targets of units, that have failed for good.
        interrupted: The exit status after a signal to stop; None without a signal.
    """

    finished: int = 0
    crafted: int = 0
    shown: int = 0
    failures: list[Failure] = field(default_factory=list)
    interrupted: int | None = None


class Sink(Protocol):
    """A buffer of rows, which publishes its rows from time to time."""

    def tick(self) -> None:
        """Publish the rows in the buffer if they are old enough."""

    def flush(self) -> None:
        """Publish the rows in the buffer."""


class Workload(Protocol):
    """A kind of work: attack runs, clean predictions, or probes. It makes tasks, and handles their answers.

    The default methods fit a workload whose tasks are all known at the start. Other workloads override them.
    """

    progress: Progress

    @property
    def sinks(self) -> Collection[Sink]:
        """The buffers of rows into which answers are written."""
        return ()

    @property
    def crafts_allowed(self) -> bool:
        """Whether workers may craft more images now. Predictions are always allowed."""
        return True

    @property
    def waiting_bytes(self) -> int:
        """Bytes of adversarial images that wait for targets."""
        return 0

    def start(self) -> None:
        """Give the scheduler all tasks that can run now."""

    def give_out(self) -> bool:
        """Give the scheduler tasks that waited for memory. Returns whether more tasks will follow.

        The driver calls this method before each step.
        """
        return False

    def handle(self, event: Done | Failed) -> None:
        """Handle the answer to a task, or the failure of a task."""

    def finish(self) -> None:
        """Record the units that could not run. The driver calls this once all tasks have ended, if no signal came."""
        return


def drive(workload: Workload, runtime: Runtime) -> int | None:
    """Run a workload. Returns None once all tasks have ended, or the exit status after a signal to stop.

    In both cases, and also if an exception is raised, the rows that the workload has written are published.
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
    # If calls run in this process, this loop does not run during a call. Then only the call itself can trigger a
    # report.
    with activity.here.heard(report):
        while (workload.give_out() or not scheduler.idle) and runtime.interrupt.status is None:
            for event in scheduler.step(_STEP_SECONDS, crafts=workload.crafts_allowed):
                workload.handle(event)
            for sink in workload.sinks:
                sink.tick()
            report()


def _every_second(report: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls `report`, but at most once a second."""
    last = -math.inf

    def call() -> None:
        nonlocal last
        if time.monotonic() - last >= _STATE_SECONDS:
            last = time.monotonic()
            report()

    return call
