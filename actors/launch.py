"""`study launch`: from a spec to a finished run folder, or to where it was stopped."""

from __future__ import annotations

import functools
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from actors import clean_pass
from actors.backend import Backend
from actors.clean_images import CleanImages
from actors.cluster import Cluster
from actors.driver import Driver, Outcome
from actors.kit import Kit, Line
from actors.matching import references
from actors.runtime import Runtime
from actors.scheduler import Scheduler
from actors.slots import Limits
from actors.staffing import Estimate, staff
from study import progress, resume
from study import spec as specs
from study.errors import StudyError
from study.images.sets import Candidate, candidates
from study.interrupt import Interrupt, Interrupted
from study.models.remote import Remote
from study.plan import Finished, Plan
from study.report.matrices import print_matrices
from study.results import store
from study.run_folder import RunFolder
from study.spec import Spec, SpecFile
from study.storage import place
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


def launch(order: Order, console: Console, start: Callable[[], Backend] | None = None) -> int:
    """Run the study of `order` as far as it is not done yet; returns the exit status.

    0 complete, 1 incomplete, 130 or 143 interrupted. Raises StudyError for bad input (status 2), or for what stops a
    study that has begun (status 1). `start` makes the backend: Ray, unless a test says otherwise.
    """
    begun = time.monotonic()
    file = specs.load(order.spec, order.overrides)
    folder = RunFolder(order.output or Path("runs") / file.spec.study)
    resume.same_study(file, folder)
    folder.claim(lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))
    try:
        display = progress.display(console)
        study = _Study(file, folder, display, begun, console)
        if study.selected is not None and not study.left():
            display.say(f"{file.spec.study}: already complete, nothing to do")
            study.show()
            return COMPLETE
        return study.run(start or (lambda: Cluster(order.address)), order)
    finally:
        folder.release()


@dataclass(frozen=True)
class _Begun:
    """What is known before the backend is there: the candidates, and soon what the work needs."""

    found: Sequence[Candidate]
    estimate: Estimate


class _Study:
    """One launch: what is there, what is left, and the way from the one to the other."""

    def __init__(self, file: SpecFile, folder: RunFolder, display: Watcher, begun: float, console: Console) -> None:
        self._file = file
        self._spec: Spec = file.spec
        self._folder = folder
        self._display = display
        self._begun = begun
        self._console = console
        self._set_aside = 0
        self.selected = resume.selected(folder)

    @functools.cached_property
    def plan(self) -> Plan:
        """Made once: the files of images that another tool has made are hashed for it."""
        assert self.selected is not None, "a plan needs selected images"
        return Plan(self._spec, self._digests(), self.selected.shards)

    def _digests(self) -> dict[str, str]:
        assert self.selected is not None, "digests are known once the clean pass is over"
        return {name: model["digest"] for name, model in self.selected.models.items()}

    def left(self) -> int:
        """Units that have targets left."""
        return sum(1 for _ in self.plan.units(store.done(self._folder.path)))

    def run(self, start: Callable[[], Backend], order: Order) -> int:
        begun = _Begun(self._check(order), Estimate(self._spec))
        backend = start()
        try:
            with Interrupt() as interrupt:
                status = self._run(backend, begun, interrupt, order)
        finally:
            backend.close()
        left = None if self.selected is None else self.left()
        self._display.ended(Ended(status, left, self._set_aside, time.monotonic() - self._begun))
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
        spec, say, found = self._spec, self._display.say, begun.found
        crew = staff(spec, backend, begun.estimate, self._display.say)
        scheduler = Scheduler(
            backend,
            crew,
            self._kit(),
            limits=Limits(
                attempts=spec.run.attempts,
                start_seconds=spec.run.start_seconds,
                call_seconds=spec.run.call_seconds,
                straggler_seconds=spec.run.straggler_seconds,
            ),
            elastic=spec.run.actors is None,
        )
        runtime = Runtime(backend, scheduler, self._display, interrupt)
        try:
            scheduler.start(interrupt.check)
            if self.selected is None:
                self.selected = clean_pass.run(spec, found, runtime)
                resume.record(self._spec, self.selected, self._folder)
        except Interrupted:
            return self._stopped(interrupt, order)
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
        return self._report(outcome, interrupt, order)

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
        totals, finished, left = _steps(plan, done)
        crafts = len(plan.crafts)
        units = crafts * len(plan.shards)
        self._display.say(f"plan: {crafts} crafts x {len(plan.shards)} shards = {units} units, {left} of them to do")
        files = {one.image: one.file for one in found}
        missing = [one.image for shard in plan.shards for one in shard.images if one.image not in files]
        if missing:
            raise StudyError(
                f"{len(missing)} images of this study are no longer in the image set, such as {missing[0]}",
                todo="bring them back, or launch into a new folder with --output",
            )
        writer = store.Writer(
            self._folder,
            flush_seconds=self._spec.run.flush_seconds,
            metadata=_provenance(self._spec),
        )
        driver = Driver(plan, CleanImages(plan, files, runtime.backend), writer, runtime)
        self._display.started(
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
        self._display.begin(totals, finished)
        try:
            return driver.run(done, store.moved(self._folder.path, references(plan)))
        finally:
            self._display.end()

    def _report(self, outcome: Outcome, interrupt: Interrupt, order: Order) -> int:
        if outcome.interrupted is not None:
            return self._stopped(interrupt, order)
        self.show()
        left = self.left()
        seconds = time.monotonic() - self._begun
        if not outcome.failures and not left:
            self._folder.failures.unlink(missing_ok=True)
            self._display.say(f"complete in {seconds:.0f} s: {self._folder.path}")
            self._display.say(f"again:    study show {shlex.quote(str(self._folder.path))}")
            self._display.say(f"in polars: pl.scan_parquet({self._folder.scanned!r})")
            return COMPLETE
        failures = [vars(failure) for failure in outcome.failures]
        self._set_aside = len(failures)
        self._folder.write_json(self._folder.failures, {"failures": failures})
        first = outcome.failures[0] if outcome.failures else None
        self._display.say(f"incomplete after {seconds:.0f} s: {left} units are left")
        if first is not None:
            self._display.say(f"  {len(failures)} failed; the first: {first.unit}: {first.error.splitlines()[0]}")
        self._display.say(f"  all of them, in full: {self._folder.failures}")
        self._display.say(f"  once the cause is mended: {_again(order)}")
        return INCOMPLETE

    def _stopped(self, interrupt: Interrupt, order: Order) -> int:
        assert interrupt.status is not None, "somebody asked to stop"
        self._display.say(f"stopped; what is finished is kept. Go on with: {_again(order)}")
        return interrupt.status

    def show(self) -> None:
        """Print the transfer matrices."""
        print_matrices(self._spec, store.scan(self._folder.path), self._console)


def _secret(remote: Remote) -> Secret | None:
    """The credential of a service, which stands in the environment of the driver and nowhere else."""
    from study.models.service import Secret

    return None if remote.credentials is None else Secret.from_environment(remote.credentials)


def _steps(plan: Plan, finished: Finished) -> tuple[Mapping[str, int], Mapping[str, int], int]:
    """Units in all and units done, by experiment; and how many are left."""
    totals: dict[str, int] = {}
    for craft in plan.crafts.values():
        for name in craft.experiments:
            totals[name] = totals.get(name, 0) + len(plan.shards)
    done, left = dict(totals), 0
    for unit in plan.units(finished):
        left += 1
        for name in unit.craft.experiments:
            done[name] -= 1
    return totals, done, left


def _provenance(spec: Spec) -> dict[str, str]:
    """What rows depend on beside their columns; it stands in the metadata of every part."""
    import torch

    import study

    return {
        "study": spec.study,
        "version": study.__version__,
        "torch": str(torch.__version__),
        "numerics": spec.numerics.model_dump_json(),
    }


def _again(order: Order) -> str:
    words = ["study", "launch", str(order.spec)]
    words += ["--output", str(place(order.output))] if order.output else []
    words += ["--address", order.address] if order.address else []
    words += ["--allow-code"] if order.allow_code else []
    for one in order.overrides:
        words += ["--set", one]
    return shlex.join(words)
