"""Writes the events of a launch as JSON for programs, one event per line.

docs/events.md describes the events. docs/events.schema.json is the JSON Schema of a line.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import IO, Any

from study.errors import StudyError
from study.events.observer import Ended, Observer, Started, State, UnitDone, UnitFailed
from study.events.repairs import WORD, Repair
from study.events.run_state import RunState

_STATE_SECONDS = 5.0


class Events(Observer):
    """An observer that writes each event as a line of JSON at once, and the state of the launch every five seconds."""

    def __init__(
        self, out: Callable[[], IO[str]], state: RunState, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`out` returns the stream. It is called for each event, because the display may replace the stream."""
        self._out = out
        self._state = state
        self._clock = clock
        self._told: float | None = None

    def say(self, line: str) -> None:
        self._write("said", text=line)

    def begin(self, totals: Mapping[str, int], done: Mapping[str, int] | None = None) -> None:
        self._write("begun", totals=dict(totals), done=dict(self._state.done))

    def end(self) -> None:
        self._write("over", done=dict(self._state.done))

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
            rows=event.result.rows,
            seconds=round(event.seconds, 3),
            gradients=event.gradients,
            success={target: {"hits": hits, "images": among} for target, (hits, among) in event.successes.items()},
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
        self._write("state", **self._state.as_dict())

    def ended(self, event: Ended) -> None:
        self._write(
            "ended", status=event.status, left=event.left, failures=event.failures, seconds=round(event.seconds, 3)
        )

    def refused(self, error: StudyError) -> None:
        """Write the error that ends the launch. The command also prints the error on standard error."""
        parts = {"what": error.what, "where": error.where, "accepted": error.accepted, "todo": error.todo}
        self._write("error", status=error.status, **parts)

    def _write(self, event: str, **said: Any) -> None:
        stamp = datetime.now().astimezone().isoformat(timespec="milliseconds")
        out = self._out()
        out.write(json.dumps({"event": event, "time": stamp, **said}) + "\n")
        out.flush()
