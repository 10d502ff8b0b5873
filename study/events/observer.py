"""The events of a launch, and the observers that receive them: terminal, tracking, log. No observer changes a study."""

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
    """The plan is made, and the first unit (an attack run on one shard of the images) is about to start.

    Attributes:
        plan: The plan.
        folder: The run folder, or its address.
        models: Digest, size and parameters of every model, by name, as in `models.json`.
        totals: Number of all units, by experiment.
        finished: Number of units that earlier launches finished, by experiment.
        left: Number of units that this launch has to do.
        workers: Number of workers: actors that run attacks and predict.
        device: The device of the workers: `cpu` or `cuda:0`.
        backend: Name of the backend in messages.
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
    """All targets of a unit have answered or failed, and the writer has the `result` of the unit.

    `seconds`: time of its attack on the worker, without loading; `gradients`: its number of image gradients.
    """

    unit: Unit
    result: UnitResult
    seconds: float
    gradients: int

    @functools.cached_property
    def successes(self) -> dict[str, tuple[int, int]]:
        """By target: the number of successful images of the finished attack, and the number of images of the unit."""
        from study.analysis.unit_successes import successes

        return successes(self.result)


@dataclass(frozen=True)
class UnitFailed:
    """A unit failed, or one target of a unit.

    `target`: the target that failed; None if the whole unit failed. `traceback` is for the log; None if no exception
    was raised.
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
        holds: The models that the actor holds.
        queued: Number of its calls, the running call included.
        doing: The title of the running call; empty if the actor is idle.
        busy_share: Share of its time in which calls ran, 0..1.
        activity: How far the running call is, such as `step 34 of 100`, as the actor's process last reported; empty if
            this is not known.
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
    """The state of the scheduler, about once a second.

    Attributes:
        slots: The state of each actor.
        waiting_crafts: Units that wait for an actor.
        waiting_batches: Batches of adversarial images that wait for targets.
        waiting_bytes: Size of these batches in bytes.
        calls: Calls answered since the launch began.
        failed_calls: Calls that raised an error, retries included.
        lost_actors: Actors that were replaced because they died or failed.
        repeated: Calls that were repeated on another actor because they took too long.
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
    """The launch is over.

    Attributes:
        status: The exit status.
        left: Number of unfinished units; None if no images are selected.
        failures: Number of failures.
        seconds: Seconds since the launch began.
    """

    status: int
    left: int | None
    failures: int
    seconds: float


class Observer:
    """Receives events. Each observer overrides the methods that it needs."""

    def say(self, line: str) -> None:
        """A message for the user."""

    def wait(self) -> None:
        """The launch waits, for example for machines or workers. Called about once a second during the wait."""

    def begin(self, totals: Mapping[str, int], done: Mapping[str, int] | None = None) -> None:
        """Counted work begins.

        `totals`: number of all steps. `done`: number of finished steps. The names in both mappings are experiments,
        probes, or `clean pass`.
        """

    def advance(self, names: Iterable[str]) -> None:
        """One more step is done for each of `names`."""

    def end(self) -> None:
        """The counted work is over, finished or not."""

    def started(self, event: Started) -> None:
        """The first unit is about to start."""

    def finished(self, event: UnitDone) -> None:
        """All targets of a unit have answered or failed, and the unit has rows."""

    def failed(self, event: UnitFailed) -> None:
        """A unit, or one target of it, failed."""

    def repaired(self, event: Repair) -> None:
        """The program repaired something."""

    def state(self, event: State) -> None:
        """The state of the scheduler, about once a second."""

    def written(self) -> None:
        """The units of the plan are over, and all rows are in the run folder."""

    def ended(self, event: Ended) -> None:
        """The launch is over: the last event."""


class Observers(Observer):
    """Passes events to several observers, except repairs.

    `first` is the terminal. If one of `others` raises an error, this observer is removed, and its removal is reported
    as a repair.
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
