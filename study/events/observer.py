"""The events of a launch, and the interface of the observers that receive them, such as terminal, tracking and log.

No observer changes the results of a study.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from study.events.repairs import Repair, repaired

if TYPE_CHECKING:
    from study.planning.plan import Plan, Unit
    from study.results.schema import UnitResult


@dataclass(frozen=True)
class Started:
    """The event that the plan is made and the first unit (an attack run on one shard of the images) is about to start.

    Attributes:
        plan: The plan.
        folder: The path of the run folder, or its address in an object store.
        models: Digest, size and parameters of every model, by name, as in `models.json`.
        totals: The number of all units, for each experiment.
        finished: The number of units that earlier launches finished, for each experiment.
        left: The number of units that this launch has to do.
        workers: The number of workers, which are actors that run attacks and predict.
        device: The device of the workers: `cpu` or `cuda:0`.
        backend: The name of the backend, for messages.
    """

    plan: Plan
    folder: str
    models: Mapping[str, Mapping[str, Any]]
    totals: Mapping[str, int]
    finished: Mapping[str, int]
    left: int
    workers: int
    device: str
    backend: str


@dataclass(frozen=True)
class UnitDone:
    """The event that all targets of a unit have answered or failed, and the writer of the rows has the unit's result.

    Attributes:
        unit: The unit: an attack run on one shard of the images.
        result: The result rows of the unit.
        seconds: Seconds that the attack took on the worker, without the time to load models.
        gradients: Number of image gradients that the attack computed.
    """

    unit: Unit
    result: UnitResult
    seconds: float
    gradients: int

    @functools.cached_property
    def successes(self) -> dict[str, tuple[int, int]]:
        """For each target: the number of images that succeed after the last step of the attack, and of all images."""
        from study.analysis.unit_successes import successes

        return successes(self.result)


@dataclass(frozen=True)
class UnitFailed:
    """The event that a whole unit failed, or that one target of a unit failed.

    Attributes:
        unit: The unit: an attack run on one shard of the images.
        target: The target that failed; None if the whole unit failed.
        error: The text of the error.
        traceback: The traceback, for the log; None if no exception was raised.
    """

    unit: Unit
    target: str | None
    error: str
    traceback: str | None = None


@dataclass(frozen=True)
class SlotState:
    """The state of an actor.

    Attributes:
        id: The number of the actor.
        role: The role of the actor: `worker`, or `service <name>`.
        up: Whether the actor has started.
        holds: The names of the models that the actor has in memory.
        queued: The number of calls in the queue of the actor, with the running call.
        doing: The title of the running call; empty if the actor is idle.
        busy_share: The share of the actor's time in which calls ran, 0..1.
        activity: The progress of the running call that the actor last reported, such as `step 34 of 100`; empty if
            unknown.
    """

    id: int
    role: str
    up: bool
    holds: tuple[str, ...]
    queued: int
    doing: str
    busy_share: float
    activity: str = ""


@dataclass(frozen=True)
class State:
    """The event with the state of the scheduler, about once a second.

    Attributes:
        slots: The state of each actor.
        waiting_crafts: Number of units (attack runs on one shard of the images) that wait for an actor.
        waiting_batches: Number of batches of adversarial images that wait for targets.
        waiting_bytes: Size in bytes of the batches that wait.
        calls: Number of calls that were answered since the launch began.
        failed_calls: Number of calls that raised an error. Failed retries count too.
        lost_actors: Number of actors that were replaced because they died or failed.
        repeated: Number of calls that were repeated on another actor because they took too long.
    """

    slots: Sequence[SlotState]
    waiting_crafts: int
    waiting_batches: int
    waiting_bytes: int
    calls: int
    failed_calls: int
    lost_actors: int
    repeated: int


@dataclass(frozen=True)
class Ended:
    """The event that the launch is over.

    Attributes:
        status: The exit status.
        left: Number of unfinished units of the whole study; None if it is unknown, as when no images are selected.
        failures: Number of failures in this launch.
        seconds: Seconds since the launch began.
    """

    status: int
    left: int | None
    failures: int
    seconds: float


class Observer:
    """Receives the events of a launch. Every method does nothing. A subclass overrides the methods that it needs."""

    def say(self, line: str) -> None:
        """Receive a message for the user."""

    def wait(self) -> None:
        """Receive the event that the launch still waits, for example for machines, about once a second."""

    def begin(self, totals: Mapping[str, int], done: Mapping[str, int] | None = None) -> None:
        """Receive the event that counted work begins.

        `totals`: number of all steps, by name. `done`: number of steps that are finished already, by name; None if
        there are none. A name is an experiment, a probe, or `clean pass`.
        """

    def advance(self, names: Iterable[str]) -> None:
        """Receive the event that one more step is done for each name in `names`."""

    def end(self) -> None:
        """Receive the event that the counted work is over, finished or not."""

    def started(self, event: Started) -> None:
        """Receive the event that the first unit (an attack run on one shard of the images) is about to start."""

    def finished(self, event: UnitDone) -> None:
        """Receive the event that all targets of a unit have answered or failed, and the unit has rows."""

    def failed(self, event: UnitFailed) -> None:
        """Receive the event that a whole unit, or one target of a unit, failed."""

    def repaired(self, event: Repair) -> None:
        """Receive the event that the program repaired a problem itself."""

    def state(self, event: State) -> None:
        """Receive the state of the scheduler, about once a second."""

    def written(self) -> None:
        """Receive the event that this launch has no unit left to run, and all its rows are in the run folder."""

    def ended(self, event: Ended) -> None:
        """Receive the last event: the launch is over."""


class Observers(Observer):
    """Passes all events except repairs to several observers.

    `first` is the observer for the terminal. If an observer in `others` raises an error, this observer is removed, and
    its removal is reported as a repair. Errors of `first` pass through.
    """

    def __init__(self, first: Observer, others: Sequence[Observer]) -> None:
        self._first = first
        self._others = list(others)

    def say(self, line: str) -> None:
        self._tell("say", line)

    def wait(self) -> None:
        self._tell("wait")

    def begin(self, totals: Mapping[str, int], done: Mapping[str, int] | None = None) -> None:
        self._tell("begin", totals, done)

    def advance(self, names: Iterable[str]) -> None:
        self._tell("advance", list(names))

    def end(self) -> None:
        self._tell("end")

    def started(self, event: Started) -> None:
        self._tell("started", event)

    def finished(self, event: UnitDone) -> None:
        self._tell("finished", event)

    def failed(self, event: UnitFailed) -> None:
        self._tell("failed", event)

    def state(self, event: State) -> None:
        self._tell("state", event)

    def written(self) -> None:
        self._tell("written")

    def ended(self, event: Ended) -> None:
        self._tell("ended", event)

    def _tell(self, what: str, *arguments: Any) -> None:
        getattr(self._first, what)(*arguments)
        for observer in list(self._others):
            try:
                getattr(observer, what)(*arguments)
            except Exception as error:  # noqa: BLE001 - an observer must not stop a study
                self._others.remove(observer)
                repaired("watcher", f"{type(observer).__name__} failed and receives no more events: {error!r}")
