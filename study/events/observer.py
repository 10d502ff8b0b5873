"""What those who watch a study are told: terminal, tracker, log. They are never asked, and cannot change or stop it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from study.events.repairs import Repair, repaired

if TYPE_CHECKING:
    import pyarrow as pa

    from study.planning.plan import Plan, Unit


@dataclass(frozen=True)
class Started:
    """Images are selected, the plan is made, and units are about to be given out.

    Attributes:
        folder: The run folder, or its address.
        models: Digest, size and parameters of every model, by name, as in `models.json`.
        totals: Units in all, by experiment.
        finished: Units that earlier launches finished, by experiment.
        left: Units that this launch has to do.
        workers: Actors that craft and predict.
        device: What they run on: `cpu` or `cuda:0`.
        backend: Where, for people.
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
    """A unit whose targets have all answered, or failed: its rows go to the store now.

    `seconds` are those that its worker crafted for, loading left out; `gradients` the image gradients that it took.
    """

    unit: Unit
    rows: pa.Table
    seconds: float
    gradients: int


@dataclass(frozen=True)
class UnitFailed:
    """A unit, or one target of it, is set aside; `traceback` is for the log, where an exception was raised."""

    unit: Unit
    target: str | None
    error: str
    traceback: str | None = None


@dataclass(frozen=True)
class SlotState:
    """An actor: what it holds, the calls in its queue, what the first of them is, and its share of time at work."""

    id: int
    role: str
    up: bool
    holds: tuple[str, ...]
    queued: int
    doing: str
    busy_share: float


@dataclass(frozen=True)
class State:
    """How the loop stands, about once a second.

    Attributes:
        waiting_crafts: Units that could be given out.
        waiting_batches: Calls that are to show batches to targets.
        waiting_bytes: Of batches that wait for targets.
        calls: Answered since the launch began.
        failed_calls: Calls that raised, each time they did.
        lost_actors: Actors that died and were replaced.
        repeated: Calls that were made again on another actor because they took too long.
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
    """The launch is over: `status` as of the process, `left` units (None: no images are selected yet), `failures` set
    aside, `seconds` since it began."""

    status: int
    left: int | None
    failures: int
    seconds: float


class Observer:
    """Told what happens; a watcher overrides what it cares about."""

    def say(self, line: str) -> None:
        """A line that stays."""

    def begin(self, totals: Mapping[str, int], done: Mapping[str, int] | None = None) -> None:
        """Work of so many steps by name (an experiment, or the clean pass), some of it done already."""

    def advance(self, names: Iterable[str]) -> None:
        """One more step of each of `names`."""

    def end(self) -> None:
        """All that was begun is over, finished or not."""

    def started(self, event: Started) -> None:
        """Before the first unit of a launch."""

    def finished(self, event: UnitDone) -> None:
        """For every unit that has rows."""

    def failed(self, event: UnitFailed) -> None:
        """For everything that is set aside."""

    def repaired(self, event: Repair) -> None:
        """Something went wrong, and was mended without anyone's help."""

    def state(self, event: State) -> None:
        """About once a second while units are worked on."""

    def ended(self, event: Ended) -> None:
        """Last of all, whatever the end, once a launch has begun."""


class Observers(Observer):
    """Several watchers, the terminal first. Another that fails is named there, and not called again."""

    def __init__(self, first: Observer, others: Sequence[Observer]) -> None:
        self._first = first
        self._others = list(others)

    def say(self, line: str) -> None:
        self._tell("say", line)

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

    def ended(self, event: Ended) -> None:
        self._tell("ended", event)

    def _tell(self, what: str, *arguments: Any) -> None:
        getattr(self._first, what)(*arguments)
        for watcher in list(self._others):
            try:
                getattr(watcher, what)(*arguments)
            except Exception as error:  # noqa: BLE001 - whoever watches must not be able to stop a study
                self._others.remove(watcher)
                repaired("watcher", f"{type(watcher).__name__} has failed and is left out from now on: {error!r}")
