"""`study launch`: from a spec to a finished run folder, or to where it was stopped."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from actors.backends.bounded_calls import CallTimeouts, bounded
from actors.backends.interface import Backend
from actors.backends.ray_backend import RayBackend
from actors.execution import clean_pass
from actors.execution.clean_images import CleanImages
from actors.execution.driver import Driver, Outcome
from actors.execution.matched_budgets import references
from actors.execution.probes import Geometry, Store
from actors.execution.runtime import Runtime
from actors.execution.study_update import StudyUpdate
from actors.launch import unit_filter
from actors.launch.launch_summary import LaunchSummary, stopped
from actors.launch.progress import provenance, steps
from actors.launch.tracking_session import TrackingSession, tracked
from actors.resources import object_store
from actors.resources.worker_pool import MemoryEstimate, fit_budgets, plan_pool
from actors.scheduling.limits import Limits
from actors.scheduling.scheduler import Scheduler
from actors.workers.worker_config import worker_config
from study.commands.show import print_so_far
from study.errors import StudyError
from study.events import repairs
from study.events.observer import Ended, Observer, Started
from study.geometry import store as geometry_store
from study.geometry.plan import GeometryPlan
from study.images.image_sets import Candidate, candidates
from study.planning import resume, spec_diff
from study.planning.plan import Plan
from study.process.interrupt import Interrupt, Interrupted, hurry
from study.reproducibility import float_environment
from study.results import current_plan, integrity, scanning
from study.results.kept_images import KeepingWriter, KeptImages
from study.results.writer import Writer
from study.spec import loading
from study.spec.loading import SpecFile
from study.spec.schema import Spec
from study.storage.run_folder import RunFolder
from study.terminal import Display, Style
from study.terminal.screen import counted

COMPLETE, INCOMPLETE = 0, 1


@dataclass(frozen=True)
class LaunchOptions:
    """What was asked on the command line."""

    spec: Path
    output: Path | None = None
    address: str | None = None
    overrides: tuple[str, ...] = ()
    allow_code: bool = False
    style: Style | None = None
    only: tuple[str, ...] = ()
    limit: int | None = None
    wandb: str | None = None


def launch(order: LaunchOptions, console: Console, start: Callable[[], Backend] | None = None) -> int:
    """Run the study of `order` as far as it is not done yet; returns the exit status.

    0 complete, 1 incomplete, 130, 143 or 129 interrupted. Raises StudyError for bad input (status 2), or for what stops
    a study that has begun (status 1). `start` makes the backend: Ray, unless a test says otherwise.
    """
    begun = time.monotonic()
    with Interrupt() as interrupt, Display(console, order.style) as front:

        def last_words() -> int:
            assert interrupt.status is not None, "somebody asked to stop"
            hurry()
            stopped(front, order)
            front.ended(Ended(interrupt.status, None, 0, time.monotonic() - begun))
            return interrupt.status

        interrupt.farewell = last_words
        try:
            interrupt.check()
            return _launch(order, front, interrupt, begun, start)
        except Interrupted:
            return last_words()


def _launch(
    order: LaunchOptions, front: Display, interrupt: Interrupt, begun: float, start: Callable[[], Backend] | None
) -> int:
    file = loading.load(order.spec, order.overrides)
    unit_filter.check(file, order.only)
    folder = RunFolder(order.output or Path("runs") / file.spec.study)
    changes = spec_diff.changes(file, folder)
    folder.claim(front.say)
    try:
        hidden = file.spec.credentials
        front.attach(file.spec.study, folder, hidden)
        integrity.require_intact(folder, front.say)
        with tracked(order, file.spec, folder, front) as watch:
            study = _Study(file, folder, front, begun=begun, order=order, interrupt=interrupt)
            study.extension = StudyUpdate(file, folder, changes, front.say)
            if study.selected is not None and study.nothing_left():
                study.show()
                watch.complete(study.plan, study.selected.models, folder)
                study.ending.nothing_to_do()
                return COMPLETE
            study.display = watch.display
            patience = CallTimeouts.of(file.spec.run)
            make = start or (lambda: RayBackend(order.address, hidden, watch.display.say, object_store.here(file.spec)))
            return study.run(lambda: bounded(make, patience, interrupt, front.refused), order, watch)
    finally:
        folder.release()


@dataclass(frozen=True)
class _Begun:
    """What is known before the backend is there: the candidates, and soon what the work needs."""

    found: Sequence[Candidate]
    estimate: MemoryEstimate


@contextlib.contextmanager
def _meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Run `work` in a thread beside the block, and leave once both have ended. Raises what either raises."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(work)
        yield
    running.result()


class _Study:
    """One launch: what is there, what is left, and the way from the one to the other."""

    def __init__(
        self,
        file: SpecFile,
        folder: RunFolder,
        front: Display,
        *,
        begun: float,
        order: LaunchOptions,
        interrupt: Interrupt,
    ) -> None:
        self._file = file
        self._spec: Spec = file.spec
        self._folder = folder
        self._front = front
        self.display: Observer = front
        self._begun = begun
        self._order = order
        self._interrupt = interrupt
        self.ending = LaunchSummary(file.spec, folder, front, order)
        self._set_aside = 0
        self.selected = resume.selected(folder)
        self.extension = StudyUpdate(file, folder, spec_diff.Changes(), front.say)

    @functools.cached_property
    def plan(self) -> Plan:
        """Made once: the files of images that another tool has made are hashed for it."""
        assert self.selected is not None, "a plan needs selected images"
        return Plan(self._spec, self._digests(), self.selected.shards)

    def _digests(self) -> dict[str, str]:
        assert self.selected is not None, "digests are known once the clean pass is over"
        return {name: model["digest"] for name, model in self.selected.models.items()}

    @functools.cached_property
    def geometry(self) -> GeometryPlan:
        """The probes' units. Raises StudyError where they ask for images that are not selected."""
        assert self.selected is not None, "a plan needs selected images"
        return GeometryPlan(self._spec, self._digests(), self.selected.shards)

    def nothing_left(self) -> bool:
        """Whether the study is complete, models and images being what they are; then the folder gets its spec."""
        if self.selected is None or self.extension.due(self.selected) or self.left():
            return False
        self.extension.settle(self.selected)
        current_plan.record(self.plan, scanning.done(self._folder.path), self._folder)
        return True

    def left(self) -> int:
        """Units that have targets left, or images to be kept, and units of probes."""
        probes = geometry_store.done(self._folder.path, self._spec.geometry)
        units = self.plan.units(scanning.done(self._folder.path), kept=KeptImages(self._folder).units)
        return sum(1 for _ in units) + sum(1 for _ in self.geometry.units(probes))

    def run(self, start: Callable[[], Backend], order: LaunchOptions, watch: TrackingSession) -> int:
        begun = _Begun(self._check(order), MemoryEstimate(self._spec, allow_code=order.allow_code))
        backend = start()
        status: int | None = None
        try:
            status = self._run(backend, begun, order)
            self._interrupt.settle()
        except Interrupted:
            hurry()
            status = self._stopped()
        finally:
            # Ray and W&B each take two seconds to end, and neither looks at the other's processes.
            with self._interrupt.patient(), _meanwhile(backend.close), watch.ending():
                if status is not None:
                    watch.ended(status)
        left = None if self.selected is None else self.left()
        self.display.ended(Ended(status, left, self._set_aside, time.monotonic() - self._begun))
        return status

    def _check(self, order: LaunchOptions) -> list[Candidate]:
        """All that can be wrong with models and images and is cheap to see, before anything is started."""
        from study.models.check import check_models

        check_models(self._spec.models, self._spec.labels, self._file.where, allow_code=order.allow_code)
        try:
            return candidates(self._spec.images, self._spec.seed, targeted=self._spec.targeted)
        except StudyError as error:
            raise error.located(self._file.where("images")) from None

    def _run(self, backend: Backend, begun: _Begun, order: LaunchOptions) -> int:
        spec, say, found = self._spec, self.display.say, begun.found
        crew = plan_pool(spec, backend, begun.estimate, self.display.say)
        scheduler = Scheduler(
            backend,
            crew,
            worker_config(spec, self._folder, allow_code=order.allow_code),
            limits=Limits.of(spec.run),
            elastic=spec.run.actors is None,
            say=lambda line: repairs.repaired("actor", line),
        )
        runtime = Runtime(backend, scheduler, self.display, self._interrupt, fit_budgets(spec, backend, crew, say))
        scheduler.start(self._interrupt.check)
        float_environment.compare(self._folder, scheduler.arithmetics, say)
        if self.selected is None:
            self.selected = clean_pass.run(spec, found, runtime)
            resume.record(self._spec, self.selected, self._folder, spec_diff.listing(spec, found))
        else:
            self.selected = self.extension.carry_out(self.selected, found, runtime)
        try:
            outcome = self._carry_out(found, runtime)
        except StudyError as error:
            error.status = INCOMPLETE
            raise
        if mended := self._front.repairs:
            say(repairs.summary(mended))
        return self._report(outcome, scheduler.device)

    def _carry_out(self, found: Sequence[Candidate], runtime: Runtime) -> Outcome:
        plan = self.plan
        done = scanning.done(self._folder.path)
        others = current_plan.record(plan, done, self._folder)
        if others:
            self.display.say(f"{others} crafts that have rows are not in the plan: reports leave them out")
        kept = KeptImages(self._folder)
        totals, finished, left = steps(plan, done, kept.units)
        order = self._order
        todo = unit_filter.chosen(plan, done, order.only, order.limit)
        if todo is not done:
            whole, closed, left = steps(plan, todo)
            totals = {name: finished[name] + whole[name] - closed[name] for name in whole}
        crafts = len(plan.crafts)
        units = crafts * len(plan.shards)
        self.display.say(f"plan: {crafts} crafts x {len(plan.shards)} shards = {units} units, {left} of them to do")
        if self.selected is not None:
            spec_diff.must_be_there(self.selected, found)
        files = {one.image: one.file for one in found}
        keep = self._spec.run.keep_images
        if keep and not all(craft.keepable for craft in plan.crafts.values()):
            self.display.say("searches of the minimal RMSD have no images to keep: new targets craft them again")
        writer = (KeepingWriter if keep else Writer)(
            self._folder,
            flush_seconds=self._spec.run.flush_seconds,
            metadata=provenance(self._spec, runtime.scheduler.arithmetics),
        )
        geometry = self.geometry
        images = CleanImages(plan, files, runtime.backend, runtime.budgets)
        driver = Driver(plan, images, writer, runtime, kept=kept, whole=todo is done)
        self.display.started(
            Started(
                plan=plan,
                folder=str(self._folder.path),
                models=self.selected.models if self.selected else {},
                totals=totals,
                finished=finished,
                left=left,
                workers=runtime.scheduler.workers,
                device=runtime.scheduler.device,
                backend=runtime.backend.name,
            )
        )
        self.display.begin(totals, finished)
        try:
            moved = scanning.rmsd_by_image(self._folder.path, references(plan))
            with self._interrupt.patient():
                outcome = driver.run(todo, moved)
        finally:
            self.display.end()
        keeping = self._spec.run.keep_images or outcome.shown
        told = f", {outcome.shown} shown from kept images" if keeping else ""
        self.display.say(f"{counted(outcome.crafted, 'unit')} crafted{told}")
        if self._spec.geometry and outcome.interrupted is None and todo is done:
            known = provenance(self._spec, runtime.scheduler.arithmetics)
            rows = Store(self._folder, self._spec.run.flush_seconds, known)
            probed = Geometry(geometry, images, rows, runtime)
            probes = geometry_store.done(self._folder.path, self._spec.geometry)
            with self._interrupt.patient():
                answers = probed.run(probes)
            outcome.failures += answers.failures
            outcome.interrupted = answers.interrupted
        return outcome

    def _report(self, outcome: Outcome, device: str) -> int:
        if outcome.interrupted is not None:
            return self._stopped()
        self._front.settle()
        self.show()
        left = self.left()
        seconds = time.monotonic() - self._begun
        if not outcome.failures:
            self._folder.failures.unlink(missing_ok=True)
            if not left:
                self.ending.complete(seconds, device)
                return COMPLETE
            if self._order.only or self._order.limit is not None:
                self.ending.partial(seconds, left, device)
                return INCOMPLETE
        self._set_aside = len(outcome.failures)
        self._folder.write_json(self._folder.failures, {"failures": [vars(failure) for failure in outcome.failures]})
        self.ending.incomplete(seconds, left, outcome.failures, device)
        return INCOMPLETE

    def _stopped(self) -> int:
        assert self._interrupt.status is not None, "somebody asked to stop"
        self.ending.stopped()
        return self._interrupt.status

    def show(self) -> None:
        """Print the transfer matrices."""
        print_so_far(self._spec, self.selected, self._folder, self._front.console)
