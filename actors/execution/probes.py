"""The geometry of models, carried out: units to workers, their rows to the writers. The loop is the driver's."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from actors.backends.interface import Ref
from actors.execution.driver import Failure, Outcome
from actors.execution.runtime import Runtime
from actors.scheduling.backlog import Task
from actors.scheduling.messages import ProbeJob, ProbeResult
from actors.scheduling.scheduler import Done, Failed
from study.errors import first_line
from study.geometry import store
from study.geometry.plan import GeometryPlan, ProbeUnit
from study.images.selection import Shard
from study.results.writer import Writer
from study.storage.run_folder import RunFolder

_STATE_SECONDS = 1.0


class Images(Protocol):
    """Where clean images come from."""

    def some(self, shard: Shard) -> Ref:
        """The images of a part of a shard."""


@dataclass(frozen=True)
class Store:
    """Where rows go: a writer for each probe that has units left, made when its first rows come."""

    folder: RunFolder
    flush_seconds: float
    metadata: Mapping[str, str]

    def writer(self, name: str) -> Writer:
        return store.writer(self.folder, name, flush_seconds=self.flush_seconds, metadata=self.metadata)


class Geometry:
    """Carries the probes of a spec out."""

    def __init__(self, plan: GeometryPlan, images: Images, kept: Store, runtime: Runtime) -> None:
        self._plan = plan
        self._images = images
        self._store = kept
        self._runtime = runtime
        self._writers: dict[str, Writer] = {}
        self._outcome = Outcome()

    def run(self, done: Mapping[str, Collection[str]]) -> Outcome:
        """Answer what is not `done`: ids of units by the name of their probe."""
        scheduler, display = self._runtime.scheduler, self._runtime.display
        totals, finished = self._feed(done)
        display.begin(totals, finished)
        try:
            told = -math.inf
            while not scheduler.idle and self._runtime.interrupt.status is None:
                for event in scheduler.step(0.5):
                    self._handle(event)
                for writer in self._writers.values():
                    writer.tick()
                if time.monotonic() - told >= _STATE_SECONDS:
                    told = time.monotonic()
                    display.state(scheduler.state(0))
        finally:
            for writer in self._writers.values():
                writer.flush()
            display.end()
        self._outcome.interrupted = self._runtime.interrupt.status
        return self._outcome

    def _feed(self, done: Mapping[str, Collection[str]]) -> tuple[dict[str, int], dict[str, int]]:
        """Give all units to the loop, as streams; units in all and units done by the name of their probe."""
        totals, finished = {}, {}
        for name in self._plan.spec.geometry:
            total = left = 0
            for models in self._plan.sets(name):
                total += sum(1 for _ in self._plan.units_of(name, models))
                count = sum(1 for _ in self._plan.units_of(name, models, done))
                self._runtime.scheduler.add_stream(self._tasks(name, models, done), count)
                left += count
            totals[name], finished[name] = total, total - left
        return totals, finished

    def _tasks(self, name: str, models: tuple[str, ...], done: Mapping[str, Collection[str]]) -> Iterator[Task]:
        return map(self._task, self._plan.units_of(name, models, done))

    def _task(self, unit: ProbeUnit) -> Task:
        job = ProbeJob(unit.id, self._plan.task(unit))
        models = {name: self._plan.digests[name] for name in unit.holds}
        return Task("probe", models, job, lambda: self._images.some(unit.shard), unit.cost, unit)

    def _handle(self, event: Done | Failed) -> None:
        unit: ProbeUnit = event.task.context
        if isinstance(event, Done):
            probed: ProbeResult = event.value
            if unit.name not in self._writers:
                self._writers[unit.name] = self._store.writer(unit.name)
            self._writers[unit.name].add(probed.rows)
            self._outcome.finished += 1
        else:
            self._outcome.failures.append(Failure.of(unit.id, None, event.error))
            self._runtime.display.say(f"{unit.id} is set aside: {first_line(event.error)}")
        self._runtime.display.advance([unit.name])
