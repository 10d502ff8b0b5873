"""The state of a launch as numbers, which the displays show."""

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
"""The cost of a prediction, as a multiple of the cost of a gradient."""


@dataclass(frozen=True)
class Rates:
    """Finished units, images and gradients per second, over the last five minutes."""

    units: float = 0.0
    images: float = 0.0
    gradients: float = 0.0


@dataclass
class Tally:
    """The successes of one attack run (one attack on one set of source models) so far in this launch.

    Only images after the last step of the attack count.

    Attributes:
        sources: The names of the source models, joined by `+`.
        attack: The name of the attack.
        goal: The goal: `untargeted` or `targeted`.
        white: The names of the source models, which are white-box targets.
        images: The number of adversarial images so far.
        targets: For each target, the number of successful images and the number of images.
    """

    sources: str
    attack: str
    goal: str
    white: frozenset[str]
    images: int = 0
    targets: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Mark:
    """The counts of a launch at the time `at`, in seconds of the clock. Two marks give a rate."""

    at: float
    units: int
    images: int
    gradients: int
    work: float


class RunState(Observer):
    """An observer that keeps the numbers of one launch.

    This observer receives each event except `end` before the displays do, so the displays show numbers that include the
    event. Other threads must hold `lock` when they read the numbers.
    """

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
        """Use the message `line` as the phase, if no counted work has begun yet."""
        with self.lock:
            if not self.totals and self.launched is None:
                self.phase = line

    def begin(self, totals: Mapping[str, int], done: Mapping[str, int] | None = None) -> None:
        """Start to count work. `totals`: number of all steps, by name. `done`: number of finished steps, by name."""
        with self.lock:
            self.totals, self.done = dict(totals), {name: (done or {}).get(name, 0) for name in totals}
            self.phase = "crafting" if self.launched is not None else next(iter(totals), _STARTING)
            self._marks.clear()
            self._mark()

    def advance(self, names: Iterable[str]) -> None:
        """Count one more finished step for each name in `names`."""
        with self.lock:
            for name in names:
                self.done[name] = self.done.get(name, 0) + 1

    def end(self) -> None:
        """End counted work. If no unit has started yet, forget the counts, which are those of the clean pass."""
        with self.lock:
            self.phase = "finishing" if self.launched is not None else _STARTING
            if self.launched is None:
                self.totals, self.done = {}, {}

    def started(self, event: Started) -> None:
        """Keep the event, and compute the cost of all units (attack runs on one shard) that are left to do."""
        with self.lock:
            self.launched = event
            plan = event.plan
            whole = sum(_work(one.gradients, len(one.targets)) for one in plan.crafts.values())
            images = sum(len(shard.images) for shard in plan.shards)
            units = len(plan.crafts) * len(plan.shards)
            # Only the number of unfinished units is known here, so each unfinished unit counts with the average cost.
            self._work_left = whole * images * event.left / max(units, 1)

    def finished(self, event: UnitDone) -> None:
        """Count a finished unit: its images, gradients, seconds, cost and successes."""
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
        """Count a failure of a whole unit, or of one target of a unit."""
        with self.lock:
            self.set_aside += 1
            self._units_lost += event.target is None
            said = (event.error.strip().splitlines() or ["no reason given"])[0]
            self.last_failure = f"{event.unit.id}{f' on {event.target}' if event.target else ''}: {said}"

    def repaired(self, event: Repair) -> None:
        """Count a repair, by kind."""
        with self.lock:
            self.repairs[event.kind] += 1

    def state(self, event: State) -> None:
        """Keep the latest state of the scheduler."""
        with self.lock:
            self.loop = event

    def ended(self, event: Ended) -> None:
        """Set the phase to the outcome of the launch: complete, incomplete or stopped."""
        with self.lock:
            self.phase = "complete" if event.status == 0 else "incomplete" if event.status == 1 else "stopped"

    @property
    def last(self) -> list[Tally]:
        """The successes of up to 12 attack runs. The attack run that finished a unit last comes first."""
        return list(reversed(self._rows.values()))

    @property
    def at_work(self) -> list[SlotState]:
        """The states of the actors that have reported the progress of their running call."""
        return [slot for slot in (self.loop.slots if self.loop else ()) if slot.activity]

    @property
    def left(self) -> int | None:
        """The number of units that this launch still has to do; None until the first unit starts."""
        return None if self.launched is None else max(0, self.launched.left - self.units - self._units_lost)

    @property
    def share(self) -> float:
        """Share of the counted work that is done, 0..1; 0 if there is no counted work."""
        total = sum(self.totals.values())
        return min(1.0, sum(self.done.values()) / total) if total else 0.0

    @property
    def rates(self) -> Rates:
        """Finished units, images and gradients per second over the last minutes; zeros before the first unit."""
        first, seconds = self._window()
        if first is None or seconds <= 0:
            return Rates()
        gained = (self.units - first.units, self.images - first.images, self.gradients - first.gradients)
        return Rates(*(count / seconds for count in gained))

    @property
    def seconds_left(self) -> float | None:
        """The estimated number of seconds left; None until the first unit has finished.

        The estimate is the cost of the remaining gradients and predictions, divided by the recent cost per second.
        """
        first, seconds = self._window()
        if first is None or self._work_left is None or seconds <= 0 or self.work <= first.work:
            return None
        return max(0.0, self._work_left - self.work) * seconds / (self.work - first.work)

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as plain data, for `state` events and status.json."""
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
    """Return the cost of one image of an attack run, as a multiple of the cost of a gradient.

    `gradients`: number of gradients of the attack. `targets`: number of targets that predict the image.
    """
    return gradients + _FORWARD * targets
