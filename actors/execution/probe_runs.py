"""Executes the probes of a study: gives their units to workers, and writes the rows of each probe."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from actors.execution.clean_images import Images
from actors.execution.driver import Failure, Outcome, Progress, Sink, Workload
from actors.execution.runtime import Runtime
from actors.scheduling.backlog import Task
from actors.scheduling.messages import ProbeJob
from actors.scheduling.scheduler import Done, Failed
from study.errors import first_line
from study.geometry import store
from study.geometry.plan import GeometryPlan, ProbeUnit
from study.results.writer import Writer
from study.storage.run_folder import RunFolder


@dataclass(frozen=True)
class ProbeWriters:
    """Makes the writer of rows for each probe.

    Attributes:
        folder: The run folder.
        flush_seconds: Longest time between two writes of rows.
        metadata: Texts that are written into every Parquet part.
    """

    folder: RunFolder
    flush_seconds: float
    metadata: Mapping[str, str]

    def writer(self, name: str) -> Writer:
        return store.writer(self.folder, name, flush_seconds=self.flush_seconds, metadata=self.metadata)


class ProbeRuns(Workload):
    """The workload of the units of all probes of `plan` that are not `done`."""

    def __init__(
        self,
        plan: GeometryPlan,
        images: Images,
        writers: ProbeWriters,
        runtime: Runtime,
        done: Mapping[str, Collection[str]],
    ) -> None:
        """`done`: the ids of finished units, by name of the probe."""
        self.outcome = Outcome()
        self.progress = _progress(plan, done)
        self._plan = plan
        self._images = images
        self._make = writers
        self._runtime = runtime
        self._done = done
        self._writers: dict[str, Writer] = {}

    @property
    def sinks(self) -> Collection[Sink]:
        return self._writers.values()

    def start(self) -> None:
        for name in self._plan.spec.geometry:
            for models in self._plan.sets(name):
                count = sum(1 for _ in self._plan.units_of(name, models, self._done))
                self._runtime.scheduler.add_stream(self._tasks(name, models), count)

    def handle(self, event: Done | Failed) -> None:
        unit: ProbeUnit = event.task.context
        if isinstance(event, Done):
            if unit.name not in self._writers:
                self._writers[unit.name] = self._make.writer(unit.name)
            self._writers[unit.name].add(event.value.rows)
            self.outcome.finished += 1
        else:
            self.outcome.failures.append(Failure.of(unit.id, None, event.error))
            self._runtime.display.say(f"{unit.id} failed: {first_line(event.error)}")
        self._runtime.display.advance([unit.name])

    def _tasks(self, name: str, models: tuple[str, ...]) -> Iterator[Task]:
        return map(self._task, self._plan.units_of(name, models, self._done))

    def _task(self, unit: ProbeUnit) -> Task:
        job = ProbeJob(unit.id, self._plan.task(unit))
        models = {name: self._plan.digests[name] for name in unit.holds}
        return Task("probe", models, job, lambda: self._images.some(unit.shard), unit.cost, unit)


def _progress(plan: GeometryPlan, done: Mapping[str, Collection[str]]) -> Progress:
    """Return how many units each probe has, and how many of them are finished and left."""
    totals = dict.fromkeys(plan.spec.geometry, 0)
    left = dict.fromkeys(plan.spec.geometry, 0)
    for unit in plan.units():
        totals[unit.name] += 1
        left[unit.name] += unit.id not in done.get(unit.name, ())
    return Progress(totals, {name: totals[name] - left[name] for name in totals}, sum(left.values()))
