"""`study launch`: from a spec to a finished run folder, or to where it was stopped."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from actors import chosen, clean_pass, stores
from actors.backend import Backend
from actors.clean_images import CleanImages
from actors.cluster import Cluster
from actors.driver import Driver, Outcome
from actors.ending import Ending
from actors.extension import Extension
from actors.geometry import Geometry, Store
from actors.kit import Kit, Line
from actors.matching import references
from actors.reckoning import provenance, steps
from actors.runtime import Runtime
from actors.scheduler import Scheduler
from actors.staffing import Estimate, held, limits_of, staff
from actors.tracked import tracked
from study import additions, resume
from study import spec as specs
from study.errors import StudyError
from study.geometry import store as geometry_store
from study.geometry.plan import GeometryPlan
from study.images.sets import Candidate, candidates
from study.interrupt import Interrupt, Interrupted
from study.models.remote import Remote
from study.plan import Plan
from study.report.matrices import print_matrices
from study.results import present, store
from study.results.kept import KeepingWriter, Kept
from study.run_folder import RunFolder
from study.spec import Spec, SpecFile
from study.terminal import Front, Style
from study.terminal.screen import counted
from study.watching import Ended, Started, Watcher

if TYPE_CHECKING:
    from study.models.service import Secret

COMPLETE, INCOMPLETE = 0, 1


@dataclass(frozen=True)
class Order:
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


def launch(order: Order, console: Console, start: Callable[[], Backend] | None = None) -> int:
    """Run the study of `order` as far as it is not done yet; returns the exit status.

    0 complete, 1 incomplete, 130 or 143 interrupted. Raises StudyError for bad input (status 2), or for what stops a
    study that has begun (status 1). `start` makes the backend: Ray, unless a test says otherwise.
    """
    begun = time.monotonic()
    with Front(console, order.style) as front:
        file = specs.load(order.spec, order.overrides)
        chosen.check(file, order.only)
        folder = RunFolder(order.output or Path("runs") / file.spec.study)
        changes = additions.changes(file, folder)
        folder.claim(front.say)
        try:
            front.attach(file.spec.study, folder, _credentials(file.spec))
            with tracked(order, file.spec, folder, front) as watch:
                study = _Study(file, folder, front, begun, order)
                study.extension = Extension(file, folder, changes, front.say)
                if study.selected is not None and study.nothing_left():
                    study.show()
                    watch.complete(study.plan, study.selected.models, folder)
                    study.ending.nothing_to_do()
                    return COMPLETE
                study.display = watch.display
                return study.run(start or (lambda: Cluster(order.address, stores.here(file.spec))), order)
        finally:
            folder.release()


@dataclass(frozen=True)
class _Begun:
    """What is known before the backend is there: the candidates, and soon what the work needs."""

    found: Sequence[Candidate]
    estimate: Estimate


class _Study:
    """One launch: what is there, what is left, and the way from the one to the other."""

    def __init__(self, file: SpecFile, folder: RunFolder, front: Front, begun: float, order: Order) -> None:
        self._file = file
        self._spec: Spec = file.spec
        self._folder = folder
        self._front = front
        self.display: Watcher = front
        self._begun = begun
        self._order = order
        self.ending = Ending(file.spec, folder, front, order)
        self._set_aside = 0
        self.selected = resume.selected(folder)
        self.extension = Extension(file, folder, additions.Changes(), front.say)

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
        present.record(self.plan, store.done(self._folder.path), self._folder)
        return True

    def left(self) -> int:
        """Units that have targets left, or images to be kept, and units of probes."""
        probes = geometry_store.done(self._folder.path, self._spec.geometry)
        units = self.plan.units(store.done(self._folder.path), kept=Kept(self._folder).units)
        return sum(1 for _ in units) + sum(1 for _ in self.geometry.units(probes))

    def run(self, start: Callable[[], Backend], order: Order) -> int:
        begun = _Begun(self._check(order), Estimate(self._spec))
        backend = start()
        try:
            with Interrupt() as interrupt:
                status = self._run(backend, begun, interrupt, order)
        finally:
            backend.close()
        left = None if self.selected is None else self.left()
        self.display.ended(Ended(status, left, self._set_aside, time.monotonic() - self._begun))
        return status

    def _check(self, order: Order) -> list[Candidate]:
        """All that can be wrong with models and images and is cheap to see, before anything is started."""
        from study.models import zoo

        for name, model in self._spec.models.items():
            try:
                if model.remote is not None:
                    _secret(model.remote)
                else:
                    zoo.check(name, model, labels=self._spec.labels, allow_code=order.allow_code)
            except StudyError as error:
                raise error.located(self._file.where("models", name)) from None
        try:
            return candidates(self._spec.images, self._spec.seed)
        except StudyError as error:
            raise error.located(self._file.where("images")) from None

    def _run(self, backend: Backend, begun: _Begun, interrupt: Interrupt, order: Order) -> int:
        spec, say, found = self._spec, self.display.say, begun.found
        crew = staff(spec, backend, begun.estimate, self.display.say)
        scheduler = Scheduler(
            backend,
            crew,
            self._kit(),
            limits=limits_of(spec),
            elastic=spec.run.actors is None,
            say=say,
        )
        runtime = Runtime(backend, scheduler, self.display, interrupt, held(spec, backend, crew, say))
        try:
            scheduler.start(interrupt.check)
            if self.selected is None:
                self.selected = clean_pass.run(spec, found, runtime)
                resume.record(self._spec, self.selected, self._folder, additions.listing(spec, found))
            else:
                self.selected = self.extension.carry_out(self.selected, found, runtime)
        except Interrupted:
            return self._stopped(interrupt)
        try:
            outcome = self._carry_out(found, runtime)
        except StudyError as error:
            error.status = INCOMPLETE
            raise
        for count, what in (
            (scheduler.failed_calls, "calls failed, and were tried again or set aside"),
            (scheduler.replaced, "actors died and were replaced; their units were run again"),
            (scheduler.repeated, "calls took far too long, and were made again elsewhere"),
        ):
            if count:
                say(f"{count} {what}")
        return self._report(outcome, interrupt, scheduler.device)

    def _kit(self) -> Kit:
        spec, lines = self._spec, {}
        for name, model in spec.models.items():
            if model.remote is not None:
                lines[name] = Line(_secret(model.remote), self._folder.answers(name))
                lines[name].cache.parent.mkdir(parents=True, exist_ok=True)
        return Kit(spec.models, spec.labels, spec.images.channels, spec.seed, spec.numerics, lines)

    def _carry_out(self, found: Sequence[Candidate], runtime: Runtime) -> Outcome:
        plan = self.plan
        done = store.done(self._folder.path)
        others = present.record(plan, done, self._folder)
        if others:
            self.display.say(f"{others} crafts that have rows are not in the plan: reports leave them out")
        kept = Kept(self._folder)
        totals, finished, left = steps(plan, done, kept.units)
        order = self._order
        todo = chosen.chosen(plan, done, order.only, order.limit)
        if todo is not done:
            whole, closed, left = steps(plan, todo)
            totals = {name: finished[name] + whole[name] - closed[name] for name in whole}
        crafts = len(plan.crafts)
        units = crafts * len(plan.shards)
        self.display.say(f"plan: {crafts} crafts x {len(plan.shards)} shards = {units} units, {left} of them to do")
        if self.selected is not None:
            additions.must_be_there(self.selected, found)
        files = {one.image: one.file for one in found}
        keep = self._spec.run.keep_images
        if keep and not all(craft.keepable for craft in plan.crafts.values()):
            self.display.say("searches of the minimal RMSD have no images to keep: new targets craft them again")
        writer = (KeepingWriter if keep else store.Writer)(
            self._folder,
            flush_seconds=self._spec.run.flush_seconds,
            metadata=provenance(self._spec, runtime.scheduler.hardware),
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
            outcome = driver.run(todo, store.moved(self._folder.path, references(plan)))
        finally:
            self.display.end()
        keeping = self._spec.run.keep_images or outcome.shown
        told = f", {outcome.shown} shown from kept images" if keeping else ""
        self.display.say(f"{counted(outcome.crafted, 'unit')} crafted{told}")
        if self._spec.geometry and outcome.interrupted is None and todo is done:
            known = provenance(self._spec, runtime.scheduler.hardware)
            rows = Store(self._folder, self._spec.run.flush_seconds, known)
            probed = Geometry(geometry, images, rows, runtime)
            answers = probed.run(geometry_store.done(self._folder.path, self._spec.geometry))
            outcome.failures += answers.failures
            outcome.interrupted = answers.interrupted
        return outcome

    def _report(self, outcome: Outcome, interrupt: Interrupt, device: str) -> int:
        if outcome.interrupted is not None:
            return self._stopped(interrupt)
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

    def _stopped(self, interrupt: Interrupt) -> int:
        assert interrupt.status is not None, "somebody asked to stop"
        self._front.settle()
        self.ending.stopped()
        return interrupt.status

    def show(self) -> None:
        """Print the transfer matrices."""
        print_matrices(self._spec, present.rows(self._folder), self._front.console)


def _credentials(spec: Spec) -> list[str]:
    """The variables whose values must be shown nowhere."""
    remotes = [model.remote for model in spec.models.values() if model.remote is not None]
    return [remote.credentials.env for remote in remotes if remote.credentials is not None]


def _secret(remote: Remote) -> Secret | None:
    """The credential of a service, which stands in the environment of the driver and nowhere else."""
    from study.models.service import Secret

    return None if remote.credentials is None else Secret.from_environment(remote.credentials)
