"""The state of a launch as numbers. Displays are views of it."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from study.events.observer import Ended, Observer, SlotState, Started, State, UnitDone, UnitFailed
from study.events.repairs import Repair

_WINDOW_SECONDS = 300.0
_MOST_MARKS = 600
_MOST_ROWS = 12
_STARTING = "starting actors"
_FORWARD = 1 / 3
"""Cost of a prediction, in gradients."""


@dataclass(frozen=True)
class Rates:
    """Finished units, images and gradients per second, over the last five minutes."""

    units: float = 0.0
    images: float = 0.0
    gradients: float = 0.0


@dataclass
class Tally:
    """Successes of one attack run in this launch, on the images of the finished attack.

    Attributes:
        sources: The source models, joined by `+`.
        attack: The attack.
        goal: The goal.
        white: The names of the source models, which are white-box targets.
        images: Number of images crafted.
        targets: By target, the number of successful images and the number of images.
    """

    sources: str
    attack: str
    goal: str
    white: frozenset[str]
    images: int = 0
    targets: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Mark:
    """The progress at one time."""

    at: float
    units: int
    images: int
    gradients: int
    work: float


class RunState(Observer):
    """The numbers of one launch. They change before the views get an event. Other threads read them under `lock`."""

    def __init__(self, study: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self._marks: deque[_Mark] = deque(maxlen=_MOST_MARKS)
        self._work_left: float | None = None
        self._rows: dict[str, Tally] = {}
        self.lock = threading.RLock()
        self.study = study
        self.phase = _STARTING
        self.totals: dict[str, int] = {}
        self.done: dict[str, int] = {}
        self.launched: Started | None = None
        self.loop: State | None = None
        self.units = self.images = self.gradients = self.set_aside = 0
        self._units_lost = 0
        self.seconds_crafting = 0.0
        self.work = 0.0
        self.last_failure = ""
        self.repairs: Counter[str] = Counter()

    @property
    def elapsed(self) -> float:
        """Seconds since the launch began."""
        return self._clock() - self._begun

    def say(self, line: str) -> None:
        """Before counted work begins, use the last message as the phase."""
        with self.lock:
            if not self.totals and self.launched is None:
                self.phase = line

    def begin(self, totals: Mapping[str, int], done: Mapping[str, int] | None = None) -> None:
        """Counted work begins."""
        with self.lock:
            self.totals, self.done = dict(totals), {name: (done or {}).get(name, 0) for name in totals}
            self.phase = "crafting" if self.launched is not None else next(iter(totals), _STARTING)
            self._marks.clear()
            self._mark()

    def advance(self, names: Iterable[str]) -> None:
        """One more step is done for each of `names`."""
        with self.lock:
            for name in names:
                self.done[name] = self.done.get(name, 0) + 1

    def end(self) -> None:
        """The counted work is over."""
        with self.lock:
            self.phase = "finishing" if self.launched is not None else _STARTING
            if self.launched is None:
                self.totals, self.done = {}, {}

    def started(self, event: Started) -> None:
        """The first unit is about to start."""
        with self.lock:
            self.launched = event
            plan = event.plan
            whole = sum(_work(one.gradients, len(one.targets)) for one in plan.crafts.values())
            images = sum(len(shard.images) for shard in plan.shards)
            units = len(plan.crafts) * len(plan.shards)
            # Only the number of unfinished units is known here, so each counts with the average cost.
            self._work_left = whole * images * event.left / max(units, 1)

    def finished(self, event: UnitDone) -> None:
        """A unit has rows."""
        with self.lock:
            craft, count = event.unit.craft, len(event.unit.shard.images)
            self.units += 1
            self.images += count
            self.gradients += event.gradients
            self.seconds_crafting += event.seconds
            self.work += _work(craft.gradients, len(event.unit.targets)) * count
            known = self._rows.pop(craft.id, None)
            called = "+".join(craft.sources) or "elsewhere"
            tally = known or Tally(called, craft.attack, craft.goal, frozenset(craft.sources))
            tally.images += count
            for target, (hits, among) in event.successes.items():
                before = tally.targets.get(target, (0, 0))
                tally.targets[target] = (before[0] + hits, before[1] + among)
            self._rows[craft.id] = tally
            while len(self._rows) > _MOST_ROWS:
                del self._rows[next(iter(self._rows))]
            self._mark()

    def failed(self, event: UnitFailed) -> None:
        """A unit, or one target of it, failed."""
        with self.lock:
            self.set_aside += 1
            self._units_lost += event.target is None
            said = (event.error.strip().splitlines() or ["no reason given"])[0]
            self.last_failure = f"{event.unit.id}{f' on {event.target}' if event.target else ''}: {said}"

    def repaired(self, event: Repair) -> None:
        """The program repaired something."""
        with self.lock:
            self.repairs[event.kind] += 1

    def state(self, event: State) -> None:
        """The state of the scheduler."""
        with self.lock:
            self.loop = event

    def ended(self, event: Ended) -> None:
        """The launch is over."""
        with self.lock:
            self.phase = "complete" if event.status == 0 else "incomplete" if event.status == 1 else "stopped"

    @property
    def last(self) -> list[Tally]:
        """The attack runs that finished units last, with the successes so far on each target. The latest is first."""
        return list(reversed(self._rows.values()))

    @property
    def at_work(self) -> list[SlotState]:
        """The actors that have reported how far they are in their running call."""
        return [slot for slot in (self.loop.slots if self.loop else ()) if slot.activity]

    @property
    def left(self) -> int | None:
        """Units that this launch still has to do; None until the first unit starts."""
        return None if self.launched is None else max(0, self.launched.left - self.units - self._units_lost)

    @property
    def share(self) -> float:
        """Share of the counted work that is done, 0..1."""
        total = sum(self.totals.values())
        return min(1.0, sum(self.done.values()) / total) if total else 0.0

    @property
    def rates(self) -> Rates:
        """Rates over the last minutes; zeros before the first unit."""
        first, seconds = self._window()
        if first is None or seconds <= 0:
            return Rates()
        gained = (self.units - first.units, self.images - first.images, self.gradients - first.gradients)
        return Rates(*(count / seconds for count in gained))

    @property
    def seconds_left(self) -> float | None:
        """Estimate of the time left, from gradients and predictions; None before the first unit."""
        first, seconds = self._window()
        if first is None or self._work_left is None or seconds <= 0 or self.work <= first.work:
            return None
        return max(0.0, self._work_left - self.work) * seconds / (self.work - first.work)

    def as_dict(self) -> dict[str, Any]:
        """The numbers as plain data, for `state` events and status.json."""
        seen, rates = self.loop, self.rates
        left = self.seconds_left
        return {
            "phase": self.phase,
            "totals": dict(self.totals),
            "done": dict(self.done),
            "left": self.left,
            "seconds": round(self.elapsed, 3),
            "seconds_left": None if left is None else round(left, 1),
            "units_per_second": round(rates.units, 6),
            "images_per_second": round(rates.images, 6),
            "gradients_per_second": round(rates.gradients, 6),
            "gradients": self.gradients,
            "failures": self.set_aside,
            "last_failure": self.last_failure or None,
            "repairs": dict(self.repairs),
            "slots": [
                {
                    "id": slot.id,
                    "role": slot.role,
                    "up": slot.up,
                    "holds": list(slot.holds),
                    "queued": slot.queued,
                    "doing": slot.doing,
                    "busy_share": round(slot.busy_share, 4),
                    "activity": slot.activity,
                }
                for slot in (seen.slots if seen else ())
            ],
            "waiting_crafts": seen.waiting_crafts if seen else 0,
            "waiting_batches": seen.waiting_batches if seen else 0,
            "waiting_bytes": seen.waiting_bytes if seen else 0,
            "calls": seen.calls if seen else 0,
            "failed_calls": seen.failed_calls if seen else 0,
            "lost_actors": seen.lost_actors if seen else 0,
            "repeated": seen.repeated if seen else 0,
        }

    def _window(self) -> tuple[_Mark | None, float]:
        now = self._clock()
        while len(self._marks) > 2 and now - self._marks[1].at > _WINDOW_SECONDS:
            self._marks.popleft()
        return (self._marks[0], now - self._marks[0].at) if self._marks else (None, 0.0)

    def _mark(self) -> None:
        now = self._clock()
        # One mark per second is enough. The first mark stays, because the window begins there.
        if len(self._marks) < 2 or now - self._marks[-1].at >= 1.0:
            self._marks.append(_Mark(now, self.units, self.images, self.gradients, self.work))


def _work(gradients: int, targets: int) -> float:
    """Cost of one image of an attack run, in gradients."""
    return gradients + _FORWARD * targets
