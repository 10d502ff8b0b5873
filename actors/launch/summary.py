"""The last step of a launch: prints finished units, cost, failures, the run folder, and further commands."""

from __future__ import annotations

import shlex
import time
from dataclasses import replace

from actors.execution.driver import Failure, Outcome
from actors.launch.options import LaunchOptions
from actors.launch.prepare import PreparedLaunch
from actors.launch.study_plan import StudyPlan
from study.commands.show import print_so_far
from study.events import repairs
from study.events.observer import Ended
from study.process.interrupt import stopped_message
from study.terminal import Display
from study.terminal.screen import amount, counted

COMPLETE, INCOMPLETE = 0, 1
"""The exit status of a launch after which the study is complete, and of one after which it is incomplete."""

_SHOWN_FAILURES = 3


def summarise(
    launch: PreparedLaunch,
    plan: StudyPlan,
    outcome: Outcome,
    display: Display,
    *,
    device: str,
    device_share: float,
    begun: float,
) -> Ended:
    """Print how a launch ended, and return this as an event.

    `device`: the device of the workers. `device_share`: the number of GPUs that one worker occupies; on processors, the
    number of cores. `begun`: the time when the launch started, by the monotonic clock.
    """
    if counts := display.repairs:
        display.say(repairs.summary(counts))
    if outcome.interrupted is not None:
        ended = stopped(launch.options, display, outcome.interrupted)
        return replace(ended, left=plan.left(launch.folder), failures=len(outcome.failures))
    display.settle()
    print_so_far(launch.spec, plan.selection, launch.folder, display.console)
    left, failures = plan.left(launch.folder), outcome.failures
    _print_cost(display, device, device_share)
    folder, seconds = launch.folder, time.monotonic() - begun
    if failures:
        _print_failures(launch, failures, display)
    if not failures and not left:
        _print_next(launch, display)
        display.verdict(f"complete in {seconds:.0f} s: {folder.path}")
        return Ended(COMPLETE, 0, 0, seconds)
    if not failures and launch.options.partial:
        display.say(f"the rest: {launch.options.command(whole=True)}")
        display.verdict(f"done as asked in {seconds:.0f} s; {_units_are_left(left)}: {folder.path}")
    else:
        display.verdict(f"incomplete after {seconds:.0f} s: {_units_are_left(left)}: {folder.path}")
    return Ended(INCOMPLETE, left, len(failures), seconds)


def record_failures(launch: PreparedLaunch, outcome: Outcome) -> None:
    """Write failures.json if units failed. Otherwise remove the file that an earlier launch wrote.

    After a signal to stop, nothing is changed.
    """
    if outcome.interrupted is not None:
        return
    folder, failures = launch.folder, outcome.failures
    if failures:
        folder.write_json(folder.failures, {"failures": [vars(failure) for failure in failures]})
    else:
        folder.failures.unlink(missing_ok=True)


def already_complete(launch: PreparedLaunch, display: Display) -> None:
    """Print the tables of a study that was already complete before this launch."""
    selection = launch.plan.selection if launch.plan is not None else None
    print_so_far(launch.spec, selection, launch.folder, display.console)
    display.verdict(f"{launch.spec.study}: already complete, nothing to do: {launch.folder.path}")


def stopped(options: LaunchOptions, display: Display, status: int) -> Ended:
    """Print how to continue a launch that a signal has stopped, and return its end as an event.

    `status`: the exit status that belongs to the signal.
    """
    display.settle()
    display.verdict(stopped_message(options.command()))
    return Ended(status, None, display.failures, 0.0)


def _print_cost(display: Display, device: str, device_share: float) -> None:
    """Print the number of image gradients, and the GPU-hours or core-hours of the attacks.

    A worker that shares a GPU counts with its share of the time.
    """
    if not display.gradients:
        return
    hours = display.seconds_crafting * device_share / 3600
    unit = "core-hours" if device.startswith("cpu") else "GPU-hours"
    display.say(
        f"cost:     {amount(display.gradients)} image gradients, {hours:.3g} {unit} of crafting, in this launch"
    )


def _print_failures(launch: PreparedLaunch, failures: list[Failure], display: Display) -> None:
    for failure in failures[:_SHOWN_FAILURES]:
        on = f" on {failure.target}" if failure.target else ""
        display.say(f"  failed: {failure.unit}{on}: {(failure.error.splitlines() or ['?'])[0]}")
    display.say(f"  {counted(len(failures), 'failure')}, in full: {launch.folder.failures}")
    display.say(f"  once the cause is fixed: {launch.options.command()}")


def _print_next(launch: PreparedLaunch, display: Display) -> None:
    run = shlex.quote(str(launch.folder.path))
    name = next(iter(launch.spec.experiments))
    display.say(f"again:    study show {run}")
    display.say(f"a table:  study table {run} --experiment {shlex.quote(name)} --format markdown")
    display.say(f"python:   study.load({str(launch.folder.path)!r}).rows")


def _units_are_left(left: int) -> str:
    return f"{counted(left, 'unit')} {'is' if left == 1 else 'are'} left"
