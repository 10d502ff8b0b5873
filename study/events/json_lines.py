"""One JSON object on each line, for programs: docs/events.schema.json says what it holds, docs/events.md why."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import IO, Any

from study.errors import StudyError
from study.events.observer import Ended, Observer, Started, State, UnitDone, UnitFailed
from study.events.repairs import WORD, Repair
from study.events.run_state import RunState, successes

_STATE_SECONDS = 5.0


class Events(Observer):
    """Events as they come; how the loop stands, every five seconds."""

    def __init__(
        self, out: Callable[[], IO[str]], board: RunState, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`out` gives the stream to write to, at every line: it may change once."""
        self._out = out
        self._board = board
        self._clock = clock
        self._told: float | None = None

    def say(self, line: str) -> None:
        self._write("said", text=line)

    def begin(self, totals: Mapping[str, int], done: Mapping[str, int] | None = None) -> None:
        self._write("begun", totals=dict(totals), done=dict(self._board.done))

    def end(self) -> None:
        self._write("over", done=dict(self._board.done))

    def started(self, event: Started) -> None:
        self._write(
            "started",
            study=event.plan.spec.study,
            folder=event.folder,
            crafts=len(event.plan.crafts),
            shards=len(event.plan.shards),
            images=sum(len(shard.images) for shard in event.plan.shards),
            totals=dict(event.totals),
            finished=dict(event.finished),
            left=event.left,
            workers=event.workers,
            device=event.device,
            backend=event.backend,
            models={name: str(model.get("digest", "")) for name, model in event.models.items()},
        )

    def finished(self, event: UnitDone) -> None:
        craft = event.unit.craft
        self._write(
            "unit",
            unit=event.unit.id,
            craft=craft.id,
            sources=list(craft.sources),
            attack=craft.attack,
            goal=craft.goal,
            seed=craft.seed,
            images=len(event.unit.shard.images),
            rows=event.rows.num_rows,
            seconds=round(event.seconds, 3),
            gradients=event.gradients,
            success={target: {"hits": hits, "images": among} for target, (hits, among) in successes(event).items()},
        )

    def failed(self, event: UnitFailed) -> None:
        self._write("failed", unit=event.unit.id, craft=event.unit.craft.id, target=event.target, error=event.error)

    def repaired(self, event: Repair) -> None:
        self._write(WORD, kind=event.kind, what=event.what)

    def state(self, event: State) -> None:
        now = self._clock()
        if self._told is not None and now - self._told < _STATE_SECONDS:
            return
        self._told = now
        self._write("state", **state(self._board))

    def ended(self, event: Ended) -> None:
        self._write(
            "ended", status=event.status, left=event.left, failures=event.failures, seconds=round(event.seconds, 3)
        )

    def refused(self, error: StudyError) -> None:
        """The launch ends with an error, which standard error has too."""
        parts = {"what": error.what, "where": error.where, "accepted": error.accepted, "todo": error.todo}
        self._write("error", status=error.status, **parts)

    def _write(self, event: str, **said: Any) -> None:
        stamp = datetime.now().astimezone().isoformat(timespec="milliseconds")
        out = self._out()
        out.write(json.dumps({"event": event, "time": stamp, **said}) + "\n")
        out.flush()


def state(board: RunState) -> dict[str, Any]:
    """How a launch stands, as plain data: what `state` events and status.json have in common."""
    seen, rates = board.loop, board.rates
    left = board.seconds_left
    return {
        "phase": board.phase,
        "totals": dict(board.totals),
        "done": dict(board.done),
        "left": board.left,
        "seconds": round(board.elapsed, 3),
        "seconds_left": None if left is None else round(left, 1),
        "units_per_second": round(rates.units, 6),
        "images_per_second": round(rates.images, 6),
        "gradients_per_second": round(rates.gradients, 6),
        "gradients": board.gradients,
        "failures": board.set_aside,
        "last_failure": board.last_failure or None,
        "repairs": dict(board.repairs),
        "slots": [
            {
                "id": slot.id,
                "role": slot.role,
                "up": slot.up,
                "holds": list(slot.holds),
                "queued": slot.queued,
                "doing": slot.doing,
                "busy_share": round(slot.busy_share, 4),
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
