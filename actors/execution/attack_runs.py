"""Executes the attack runs of a study: crafts the images of each unit, shows them to its targets, and writes the rows.

A unit is one attack run on one shard of the images. The driver reads the clean images. Otherwise it handles references
and small numbers. Adversarial images go from worker to worker. They pass through the driver only if the run keeps them,
or if they are precomputed.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence

from actors.backends.interface import PixelsLost, Ref
from actors.execution.clean_images import Images
from actors.execution.driver import Failure, Outcome, Progress, Sink, Workload
from actors.execution.matched_budgets import Dependencies, ReferenceRmsd
from actors.execution.open_units import OpenUnit, OpenUnits
from actors.execution.remaining_units import RemainingUnits
from actors.execution.row_sink import Rows
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
from study.planning.plan import Craft, Finished, Plan, Unit
from study.results.kept_images import KeptImages

_AHEAD = 4
"""Number of units per worker that wait for targets. Only below this number, the driver shows the kept images of further
units."""


class AttackRuns(Workload):
    """The workload of the units of `plan` that are not `done`: makes their tasks, and handles the answers."""

    def __init__(
        self,
        plan: Plan,
        images: Images,
        rows: Rows,
        runtime: Runtime,
        *,
        progress: Progress,
        done: Finished,
        rmsd: Mapping[str, Mapping[str, float]],
        kept: KeptImages | None = None,
        whole: bool = True,
    ) -> None:
        """Prepare the units that are left.

        `done`: the targets that need no answer, by unit id. `rmsd`: the known RMSDs of references, the attack runs to
        which other budgets are matched. They are in pixel values 0..255, by id of the reference and then by image.
        `kept` and `whole`: as in RemainingUnits.
        """
        self.progress = progress
        self.outcome = Outcome()
        self._images = images
        self._rows = rows
        self._runtime = runtime
        self._kept = kept
        self._tasks = UnitTasks(plan, images, runtime.scheduler.capacity)
        self._rmsd = ReferenceRmsd(plan, rmsd)
        self._remaining = RemainingUnits(plan, done, kept, whole=whole)
        self._dependencies = Dependencies(plan, self._remaining, self._rmsd)
        self._open = OpenUnits(plan.spec)
        self._remarked: set[str] = set()
        self._to_show: Iterator[Unit] = self._remaining.to_show() if kept is not None else iter(())
        self._budget = (runtime.budgets or pixel_budgets(plan.spec)).waiting

    @property
    def sinks(self) -> Collection[Sink]:
        return self._rows.sinks

    @property
    def crafts_allowed(self) -> bool:
        """Whether there is memory for further images, which wait for targets and then wait to be written."""
        # The limit follows the number of workers, which may change during the launch.
        most = self._budget * self._runtime.scheduler.workers
        return self._open.bytes + self._rows.waiting_bytes < most

    @property
    def waiting_bytes(self) -> int:
        return self._open.bytes

    @property
    def most_waiting_bytes(self) -> int:
        """The highest value of `waiting_bytes` so far."""
        return self._open.most_bytes

    def start(self) -> None:
        for craft, shards in self._dependencies.start():
            self._feed(craft, shards)

    def give_out(self) -> bool:
        """Show kept images to targets, as long as there is memory for more units. Returns whether more may follow."""
        most = _AHEAD * self._runtime.scheduler.workers
        while self._kept is not None and self.crafts_allowed and len(self._open) < most:
            unit = next(self._to_show, None)
            if unit is None:
                return False
            distances, pixels = self._kept.load(unit, self._images.pixels(unit.shard))
            self.outcome.shown += 1
            self._show(OpenUnit(unit, distances, self._runtime.backend.put(pixels), set(unit.targets), kept=True))
        return self._kept is not None

    def handle(self, event: Done | Failed) -> None:
        if event.task.method == "craft":
            unit: Unit = event.task.context
            if isinstance(event, Failed):
                self._fail_unit(unit, event.error)
            else:
                assert event.pixels is not None, "a call that crafts returns pixels"
                self._crafted(unit, event.value, event.pixels)
            return
        opened, targets = event.task.context
        if opened in self._open:
            self._answered(opened, targets, event)

    def finish(self) -> None:
        """Report units as failed if the attack run to which their budget is matched has failed."""
        for unit in self._dependencies.blocked():
            why = f"its budget is matched to {unit.craft.reference}, which is not complete"
            self._fail_unit(unit, StudyError(why))

    def _feed(self, craft: Craft, shards: Sequence[Shard]) -> None:
        """Give the scheduler the units of one attack run as a stream, and announce the predictions that will follow."""
        tasks = map(self._task, self._remaining.to_craft(craft, shards))
        self._runtime.scheduler.add_stream(tasks, len(shards), first=self._rmsd.is_reference(craft))
        self._expect(craft, sum(len(shard.images) for shard in shards))

    def _task(self, unit: Unit) -> Task:
        return self._tasks.craft(unit, self._rmsd.of(unit))

    def _expect(self, craft: Craft, images: int) -> None:
        """Announce predictions of `images` images. A negative number withdraws an announcement."""
        for key, cost in self._tasks.expected(craft, images):
            self._runtime.scheduler.expect(key, cost)

    def _crafted(self, unit: Unit, result: CraftResult, pixels: Ref) -> None:
        _report_note(unit, result)
        self._report_remark(unit, result.remark)
        self.outcome.crafted += 1
        self._expect(unit.craft, -len(unit.shard.images))
        seconds = result.seconds - sum(result.loads.values())
        self._show(OpenUnit(unit, result.distances, pixels, set(unit.targets), seconds))

    def _report_remark(self, unit: Unit, remark: str | None) -> None:
        """Print the remark about an attack of another library, once for each attack run."""
        if remark is not None and unit.craft.id not in self._remarked:
            self._remarked.add(unit.craft.id)
            sources = " + ".join(unit.craft.sources)
            self._runtime.display.say(f"{unit.craft.attack} on {sources}: {remark}")

    def _show(self, opened: OpenUnit) -> None:
        """Show the images of a unit to its targets, and start the units that waited for the RMSD of these images."""
        unit = opened.unit
        self._open.open(opened)
        for targets in self._tasks.groups(unit.craft, unit.targets):
            self._show_to(opened, targets)
        # The images of the finished attack come last, after the images of earlier points (steps and budgets).
        rmsd = opened.distances.rmsd[-len(unit.shard.images) :].tolist()
        if self._rmsd.is_reference(unit.craft) and self._rmsd.learn(unit, rmsd):
            for craft, shards in self._dependencies.released(unit):
                self._feed(craft, shards)
        if not opened.waiting_for:
            self._close(opened)

    def _show_to(self, opened: OpenUnit, targets: tuple[str, ...]) -> None:
        self._runtime.scheduler.add(self._tasks.predict(opened.unit, opened.pixels, targets, (opened, targets)))

    def _answered(self, opened: OpenUnit, targets: tuple[str, ...], event: Done | Failed) -> None:
        unit = opened.unit
        if isinstance(event, Done):
            _report_note(unit, event.value)
            opened.answers += [result.answers for result in event.value.targets]
        elif isinstance(event.error, PixelsLost) and self._retried(opened):
            return
        elif len(targets) > 1:
            # One of the targets may be the cause. The other targets may still answer.
            repaired("call", f"{unit.id} is shown to its targets one by one: {first_line(event.error)}")
            for target in targets:
                self._show_to(opened, (target,))
            return
        else:
            self._fail(unit, Failure.of(unit.id, targets[0], event.error))
        opened.waiting_for.difference_update(targets)
        if not opened.waiting_for:
            self._close(opened)

    def _retried(self, opened: OpenUnit) -> bool:
        """Start a unit again, because its images are lost. Returns False if they were lost too often."""
        if not self._open.retry(opened):
            return False
        repaired("batch", f"the images of {opened.unit.id} are lost, and the unit starts again")
        if opened.kept:
            self._to_show = itertools.chain([opened.unit], self._to_show)
        else:
            self._runtime.scheduler.add(self._task(opened.unit))
        return True

    def _close(self, opened: OpenUnit) -> None:
        """Write a unit whose targets have all answered or failed.

        Images that the run keeps are written first, and then all rows together.
        """
        unit, display = opened.unit, self._runtime.display
        try:
            self._rows.keep(opened)
        except PixelsLost as error:
            if not self._retried(opened):
                self._fail_unit(unit, error)
                self._open.close(opened)
            return
        result = self._rows.write(opened)
        if result is not None:
            counted = opened.distances.gradients
            each = unit.craft.gradients if counted is None else counted
            gradients = 0 if opened.kept else each * len(unit.shard.images)
            display.finished(UnitDone(unit, result, opened.seconds, gradients))
        if len(opened.answers) == len(unit.targets):
            self.outcome.finished += 1
        display.advance(unit.craft.experiments)
        self._open.close(opened)

    def _fail(self, unit: Unit, failure: Failure) -> None:
        self.outcome.failures.append(failure)
        self._runtime.display.failed(UnitFailed(unit, failure.target, failure.error, failure.traceback))

    def _fail_unit(self, unit: Unit, error: Exception) -> None:
        self._fail(unit, Failure.of(unit.id, None, error))
        self._runtime.display.advance(unit.craft.experiments)


def _report_note(unit: Unit, result: CallResult) -> None:
    if result.note is not None:
        repaired("memory", f"{unit.id}: {result.note}")
