"""The command `study launch`: makes a complete run folder from a spec, in four steps.

The steps are: prepare, select images, execute, summarise.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from actors.backends.bounded_calls import CallTimeouts, bounded
from actors.backends.in_process import InProcess, this_machine
from actors.backends.interface import Backend
from actors.backends.ray_backend import RayBackend
from actors.launch import unit_filter
from actors.launch.execute import execute
from actors.launch.options import LaunchOptions
from actors.launch.prepare import Inputs, PreparedLaunch, check_inputs, prepare
from actors.launch.select import select
from actors.launch.study_plan import plan_study
from actors.launch.summary import COMPLETE, INCOMPLETE, already_complete, record_failures, stopped, summarise
from actors.launch.tracking_session import TrackingSession, tracked
from actors.launch.tuning import check_apart, chosen, tuning_of
from actors.launch.workers import start_workers
from actors.resources import object_store
from study.errors import StudyError
from study.events.observer import Ended
from study.planning import resume, spec_diff
from study.process.interrupt import Interrupt, Interrupted, hurry
from study.results import integrity
from study.spec.own_parts import with_code
from study.spec.schema import Spec
from study.storage.run_folder import RunFolder
from study.terminal import Display
from study.terminal.prose import say


@dataclass(frozen=True)
class _Session:
    """The objects of one launch.

    Attributes:
        display: The terminal.
        tracking: The tracking with W&B.
        interrupt: The record of signals that stop the launch, such as Ctrl-C.
        begun: The time when the launch started, by the monotonic clock.
    """

    display: Display
    tracking: TrackingSession
    interrupt: Interrupt
    begun: float


def launch(options: LaunchOptions, console: Console, start: Callable[[], Backend] | None = None) -> int:
    """Run a study, or the unfinished part of a study, and return the exit status.

    The status is 0 if the study is complete, 1 if it is incomplete, and 130, 143 or 129 after a signal. Raises
    StudyError with status 2 for bad input, and with status 1 if a study that has begun cannot continue. With
    `options.inline`, an error in the code of a model or an attack is raised unchanged. `start` makes the backend. By
    default, the options choose the backend.
    """
    begun = time.monotonic()
    tuning, refused = None, None
    try:
        options = replace(options, given=options.spec_file())
        tuning = tuning_of(options)
    except StudyError as error:
        # The error is raised again below, inside the display, which reports the error as an event.
        refused = error
    if tuning is not None:
        status = launch(tuning.options, console, start)
        if status != COMPLETE:
            return status
        options = replace(options, given=chosen(tuning, lambda line: say(console, line)))
    with Interrupt() as interrupt, Display(console, options.style) as display:
        if refused is not None:
            raise refused

        def stop() -> int:
            assert interrupt.status is not None, "this is called only after a signal"
            hurry()
            ended = stopped(options, display, interrupt.status)
            display.ended(replace(ended, seconds=time.monotonic() - begun))
            return ended.status

        interrupt.farewell = stop
        try:
            interrupt.check()
            return _launch(options, display, interrupt, begun, start)
        except Interrupted:
            return stop()


def _launch(
    options: LaunchOptions,
    display: Display,
    interrupt: Interrupt,
    begun: float,
    start: Callable[[], Backend] | None,
) -> int:
    if options.inline and options.address is not None:
        raise StudyError(
            "--inline and --address exclude each other: --inline runs everything in this process, without Ray",
            accepted="one of the two options",
            todo="remove --inline or --address",
        )
    file, code = with_code(options.spec_file(), allow_code=options.allow_code)
    unit_filter.check(file, options.only)
    folder = RunFolder(options.output or Path("runs") / file.spec.study)
    changes = spec_diff.changes(file, folder)
    folder.claim(display.say)
    try:
        # Read the folder again, because another launch may have written to it before this launch claimed it.
        file = resume.as_begun(file, folder)
        hidden = file.spec.credentials
        display.attach(file.spec.study, folder, hidden)
        integrity.require_intact(folder, display.say)
        with tracked(options, file.spec, folder, display) as tracking:
            prepared = replace(prepare(options, file, folder, changes, display.say), code=code)
            if prepared.plan is not None and not prepared.left:
                selection = prepared.plan.selection
                tracking.complete(prepared.plan.attacks, selection.models, folder)
                already_complete(prepared, display)
                return COMPLETE
            say = tracking.display.say
            # From here on, the launch waits for models, images, machines and workers. Displays show that it waits.
            tracking.display.wait()
            say("checking models and images")
            inputs = check_inputs(prepared)
            if start is None and not options.inline:
                say("starting Ray" if options.address is None else f"joining Ray at {options.address}")
            make = start or _backend(options, file.spec, say, display.errors, interrupt)
            backend = bounded(make, CallTimeouts.of(file.spec.run), interrupt, display.refused)
            return _run(prepared, inputs, backend, _Session(display, tracking, interrupt, begun))
    finally:
        folder.release()


def _run(prepared: PreparedLaunch, inputs: Inputs, backend: Backend, session: _Session) -> int:
    """Do the work on a backend, end W&B and the backend, and return the exit status."""
    ended: Ended | None = None
    try:
        ended = _work(prepared, inputs, backend, session)
        session.interrupt.settle()
    finally:
        # Ray and W&B each take two seconds to end. They are independent, so they end at the same time to save time.
        with session.interrupt.patient(), _meanwhile(backend.close), session.tracking.ending():
            if ended is not None:
                session.tracking.ended(ended.status)
    session.tracking.display.ended(replace(ended, seconds=time.monotonic() - session.begun))
    return ended.status


def _work(prepared: PreparedLaunch, inputs: Inputs, backend: Backend, session: _Session) -> Ended:
    """Select images, execute the plan, and print how the launch ended, even if a signal stops it."""
    plan, interrupt = prepared.plan, session.interrupt
    try:
        runtime = start_workers(prepared, inputs, backend, session.tracking.display, interrupt)
        prepared = prepared.on(runtime.scheduler.device)
        selection = select(prepared, inputs.candidates, runtime)
        try:
            check_apart(prepared.folder, selection)
            plan = plan or plan_study(prepared.spec, selection)
            outcome = execute(prepared, plan, inputs.candidates, runtime)
        except StudyError as error:
            error.status = INCOMPLETE
            raise
        record_failures(prepared, outcome)
        if outcome.interrupted is None:
            # From here on, tracking prepares its final results, while the summary is printed.
            session.tracking.display.written()
        used = runtime.scheduler
        return summarise(
            prepared,
            plan,
            outcome,
            session.display,
            device=used.device,
            device_share=used.device_share,
            begun=session.begun,
        )
    except Interrupted:
        assert interrupt.status is not None, "Interrupted is raised only after a signal"
        hurry()
        ended = stopped(prepared.options, session.display, interrupt.status)
        return replace(ended, left=None if plan is None else plan.left(prepared.folder))


def _backend(
    options: LaunchOptions, spec: Spec, say: Callable[[str], None], errors: int | None, interrupt: Interrupt
) -> Callable[[], Backend]:
    """Return the function that makes the backend of a launch: this process, or Ray."""
    if options.inline:
        return lambda: InProcess(machine=this_machine(), interrupt=interrupt, raises=True)
    store = functools.partial(object_store.here, spec)
    return lambda: RayBackend(options.address, spec.credentials, say, store, errors)


@contextlib.contextmanager
def _meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Return a context that runs `work` in a thread, and ends once both the block and `work` have ended.

    Raises the error of the block or of `work`.
    """
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(work)
        yield
    running.result()
