"""The driver: units to workers, their batches to the workers that hold targets, finished units to the one writer.

It moves references and small numbers. Where images are kept it fetches each batch once, writes it and drops it.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from actors.backends.interface import CallFailed, PixelsLost, Ref
from actors.execution.clean_images import Images
from actors.execution.matched_budgets import Matching
from actors.execution.runtime import Runtime
from actors.execution.unit_tasks import UnitTasks
from actors.resources.object_store import pixel_budgets
from actors.scheduling.backlog import Task
from actors.scheduling.messages import CallResult, CraftResult
from actors.scheduling.scheduler import Done, Failed
from study.errors import StudyError, first_line
from study.events.observer import UnitDone, UnitFailed
from study.events.repairs import repaired
from study.images.selection import Shard
from study.models.services.service_spec import wanted_names
from study.planning.plan import Craft, Finished, Plan, Unit
from study.results.kept_images import KeepingWriter, KeptImages
from study.results.schema import PixelDistances, TargetAnswers, WantedNames, table
from study.results.writer import Writer

_STATE_SECONDS = 1.0
"""Between two looks of those who watch."""
_AHEAD = 4
"""Units at most for each worker that wait for targets while kept images are still being given out."""


@dataclass(frozen=True)
class Failure:
    """A unit, or one target of it, that is set aside: the cause, and all that Python says of it where it was raised."""

    unit: str
    target: str | None
    error: str
    traceback: str | None = None

    @classmethod
    def of(cls, unit: str, target: str | None, error: Exception) -> Failure:
        """The failure that `error` is."""
        whole = (error.traceback or None) if isinstance(error, CallFailed) else None
        return cls(unit, target, str(error).strip() or type(error).__name__, whole)


@dataclass
class Outcome:
    """How a run ended: units that were finished, those that were crafted, and those whose kept images were shown."""

    finished: int = 0
    crafted: int = 0
    shown: int = 0
    failures: list[Failure] = field(default_factory=list)
    interrupted: int | None = None


@dataclass
class Open:
    """A unit whose batch is made, or was `kept`, and is being shown to targets."""

    unit: Unit
    moved: PixelDistances
    pixels: Ref
    left: set[str]
    seconds: float = 0.0
    kept: bool = False
    said: list[TargetAnswers] = field(default_factory=list)


class Driver:
    """Carries a plan out."""

    def __init__(
        self,
        plan: Plan,
        images: Images,
        writer: Writer,
        runtime: Runtime,
        *,
        kept: KeptImages | None = None,
        whole: bool = True,
    ) -> None:
        """`kept` are images that need not be crafted; a `KeepingWriter` keeps those that are, and then the `whole` of a
        plan has units whose rows are there and whose images are not."""
        self._plan = plan
        self._kept = kept
        self._kept_units = kept.units if kept else set[str]()
        self._asked_kept = self._kept_units if whole else None
        self._coming: Iterator[Unit] = iter(())
        self._keeping = writer if isinstance(writer, KeepingWriter) else None
        self._images = images
        self._backend = runtime.backend
        self._spec = plan.spec
        self._budgets = runtime.budgets or pixel_budgets(plan.spec)
        self._writer = writer
        self._scheduler = runtime.scheduler
        self._tasks = UnitTasks(plan, images, runtime.scheduler.capacity)
        self._display = runtime.display
        self._interrupt = runtime.interrupt
        self._outcome = Outcome()
        self._open: dict[str, Open] = {}
        self._waiting: dict[str, list[Craft]] = defaultdict(list)
        self._matching = Matching(plan, {})
        self._losses: Counter[str] = Counter()
        self._batch_bytes = 0
        self._done: Finished = {}
        self._wanted = _wanted(plan)

    def run(self, done: Finished, rmsd: Mapping[str, Mapping[str, float]]) -> Outcome:
        """Craft and score what is not `done`; `rmsd` is what is known of reference crafts, by craft and image."""
        crafts = self._plan.crafts.values()
        self._done = done
        self._matching = Matching(self._plan, rmsd)
        for craft in crafts:
            if self._matching.complete(craft):
                self._feed(craft)
            else:
                assert craft.reference is not None, "only matched budgets wait"
                self._waiting[craft.reference].append(craft)
                if craft.recipe.budget.by == "image":
                    self._feed(craft)
        self._coming = (unit for unit in self._plan.units(done, kept=self._asked_kept) if unit.id in self._kept_units)
        try:
            told = -math.inf
            while (self._show_kept() or not self._scheduler.idle) and self._interrupt.status is None:
                for event in self._scheduler.step(0.5, crafts=self._room):
                    self._handle(event)
                self._writer.tick()
                if time.monotonic() - told >= _STATE_SECONDS:
                    told = time.monotonic()
                    self._display.state(self._scheduler.state(self._batch_bytes))
        finally:
            self._writer.flush()
        self._outcome.interrupted = self._interrupt.status
        if self._outcome.interrupted is None:
            self._give_up_waiting()
        return self._outcome

    def _feed(self, craft: Craft) -> None:
        """Give a craft's units to the loop, as a stream: those that can be crafted now, and no others later."""
        shards = [unit.shard for unit in self._to_craft(craft) if self._matching.ready(unit)]
        tasks = map(self._task, self._to_craft(craft, shards))
        self._scheduler.add_stream(tasks, len(shards), first=craft in self._matching)
        self._expect(craft, sum(len(shard.images) for shard in shards))

    def _to_craft(self, craft: Craft, shards: Sequence[Shard] | None = None) -> Iterator[Unit]:
        """The units of a craft that have something left and no kept images, on `shards`, or on all."""
        for unit in self._plan.units_of(craft, self._done, shards, kept=self._asked_kept):
            if unit.id not in self._kept_units:
                yield unit

    @property
    def _room(self) -> bool:
        """Whether there is room for more batches that wait: for targets, or for being kept."""
        waiting = self._batch_bytes + (self._keeping.waiting_bytes if self._keeping else 0)
        return waiting < self._budgets.waiting * self._scheduler.workers

    def _show_kept(self) -> bool:
        """Give out kept images, for as many units as there is room for; whether there may be more."""
        if self._kept is None:
            return False
        while self._room and len(self._open) < _AHEAD * self._scheduler.workers:
            unit = next(self._coming, None)
            if unit is None:
                return False
            moved, pixels = self._kept.load(unit, self._images.pixels(unit.shard))
            self._outcome.shown += 1
            self._opened(Open(unit, moved, self._backend.put(pixels), set(unit.targets), kept=True))
        return True

    def _expect(self, craft: Craft, images: int) -> None:
        """Predictions of so many images will be asked for, or (negative) are being asked for now."""
        for key, cost in self._tasks.expected(craft, images):
            self._scheduler.expect(key, cost)

    def _give_up_waiting(self) -> None:
        """What is matched to something that was set aside cannot be crafted either."""
        for reference, crafts in self._waiting.items():
            for craft in crafts:
                for unit in self._to_craft(craft):
                    if not self._matching.ready(unit):
                        why = f"its budget is matched to {reference}, which is not complete"
                        self._set_aside(unit, None, StudyError(why))

    def _task(self, unit: Unit) -> Task:
        return self._tasks.craft(unit, self._matching.of(unit))

    def _handle(self, event: Done | Failed) -> None:
        if event.task.method == "craft":
            unit: Unit = event.task.context
            if isinstance(event, Failed):
                self._set_aside(unit, None, event.error)
            else:
                assert event.pixels is not None, "a source's call has pixels"
                self._tell(unit, event.value)
                self._crafted(unit, event.value, event.pixels)
            return
        opened: Open = event.task.context[0]
        targets: tuple[str, ...] = event.task.context[1]
        if self._open.get(opened.unit.id) is not opened:
            return
        if isinstance(event, Done):
            self._tell(opened.unit, event.value)
            opened.said += [result.answers for result in event.value.targets]
        elif isinstance(event.error, PixelsLost) and self._losses[opened.unit.id] < self._spec.run.attempts:
            self._again(opened)
            return
        elif len(targets) > 1:
            # One of them may be to blame, and the others not.
            repaired("call", f"{opened.unit.id} is shown to its targets one by one: {first_line(event.error)}")
            for target in targets:
                self._show(opened, (target,))
            return
        else:
            self._fail(Failure.of(opened.unit.id, targets[0], event.error), opened.unit)
        opened.left.difference_update(targets)
        if not opened.left:
            self._finish(opened)

    def _tell(self, unit: Unit, answer: CallResult) -> None:
        if answer.note is not None:
            repaired("memory", f"{unit.id}: {answer.note}")

    def _crafted(self, unit: Unit, made: CraftResult, pixels: Ref) -> None:
        self._outcome.crafted += 1
        self._expect(unit.craft, -len(unit.shard.images))
        seconds = made.seconds - sum(made.loads.values())
        self._opened(Open(unit, made.distances, pixels, set(unit.targets), seconds))

    def _opened(self, opened: Open) -> None:
        unit, moved = opened.unit, opened.moved
        self._open[unit.id] = opened
        self._batch_bytes += self._bytes(unit)
        for targets in self._tasks.groups(unit.craft, unit.targets):
            self._show(opened, targets)
        # The finished attack stands last of its checkpoints.
        finished = moved.rmsd[-len(unit.shard.images) :].tolist()
        if unit.craft in self._matching and self._matching.learn(unit, finished):
            self._release(unit)
        if not opened.left:
            self._finish(opened)

    def _again(self, opened: Open) -> None:
        """The batch of a unit is lost: from the beginning."""
        self._losses[opened.unit.id] += 1
        repaired("batch", f"the images of {opened.unit.id} are lost, and are made again")
        self._close(opened)
        if opened.kept:
            self._coming = itertools.chain([opened.unit], self._coming)
        else:
            self._scheduler.add(self._task(opened.unit))

    def _show(self, opened: Open, targets: tuple[str, ...]) -> None:
        self._scheduler.add(self._tasks.predict(opened.unit, opened.pixels, targets, (opened, targets)))

    def _release(self, reference: Unit) -> None:
        """What was waiting for the RMSD of this unit, or of the last unit of its craft."""
        waiting = self._waiting.get(reference.craft.id, [])
        for craft in waiting:
            if craft.recipe.budget.by == "image":
                for unit in self._to_craft(craft, [reference.shard]):
                    self._scheduler.add(self._task(unit))
            elif self._matching.complete(craft):
                self._feed(craft)
        self._waiting[reference.craft.id] = [
            craft for craft in waiting if craft.recipe.budget.by == "image" or not self._matching.complete(craft)
        ]

    def _finish(self, opened: Open) -> None:
        """All targets have answered or failed: the rows there are go to the writer, as one piece."""
        if not self._keep(opened):
            return
        if opened.said:
            order = {target: index for index, target in enumerate(opened.unit.targets)}
            said = sorted(opened.said, key=lambda one: order[one.target])
            rows = table(opened.unit, opened.moved, said, self._wanted)
            self._writer.add(rows)
            gradients = 0 if opened.kept else opened.unit.craft.gradients * len(opened.unit.shard.images)
            self._display.finished(UnitDone(opened.unit, rows, opened.seconds, gradients))
        if len(opened.said) == len(opened.unit.targets):
            self._outcome.finished += 1
        self._display.advance(opened.unit.craft.experiments)
        self._close(opened)

    def _keep(self, opened: Open) -> bool:
        """Give a batch to the writer, before its rows; False where it is lost, and the unit is begun again."""
        if self._keeping is None or opened.kept or not opened.unit.craft.keepable:
            return True
        try:
            pixels = self._backend.pixels(opened.pixels)
        except PixelsLost as error:
            if self._losses[opened.unit.id] < self._spec.run.attempts:
                self._again(opened)
            else:
                self._set_aside(opened.unit, None, error)
                self._close(opened)
            return False
        self._keeping.keep(opened.unit, opened.moved, self._images.pixels(opened.unit.shard), pixels)
        return True

    def _close(self, opened: Open) -> None:
        del self._open[opened.unit.id]
        self._batch_bytes -= self._bytes(opened.unit)

    def _fail(self, failure: Failure, unit: Unit) -> None:
        self._outcome.failures.append(failure)
        self._display.failed(UnitFailed(unit, failure.target, failure.error, failure.traceback))

    def _set_aside(self, unit: Unit, target: str | None, error: Exception) -> None:
        self._fail(Failure.of(unit.id, target, error), unit)
        self._display.advance(unit.craft.experiments)

    def _bytes(self, unit: Unit) -> int:
        numbers = len(unit.shard.images) * self._spec.images.bytes
        return numbers * (8 if unit.craft.recipe.budget.minimal else len(unit.craft.recipe.points))


def _wanted(plan: Plan) -> WantedNames:
    """What services call the labels that images are to reach."""
    labels = {one.target_label for shard in plan.shards for one in shard.images}
    return {
        name: {label: wanted_names(model.remote, plan.spec.labels, label) for label in labels}
        for name, model in plan.spec.models.items()
        if model.remote is not None
    }
