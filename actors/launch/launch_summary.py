"""The last words of a launch: what is done, what it cost, where it lies, and what to do next."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from actors.execution.driver import Failure
from study.spec.schema import Spec
from study.storage.paths import storage_path
from study.storage.run_folder import RunFolder
from study.terminal import Display
from study.terminal.screen import amount, counted

if TYPE_CHECKING:
    from actors.launch.launch import LaunchOptions

_SHOWN_FAILURES = 3


class LaunchSummary:
    """What is said once a launch is over, by how it ended."""

    def __init__(self, spec: Spec, folder: RunFolder, front: Display, order: LaunchOptions) -> None:
        self._spec = spec
        self._folder = folder
        self._front = front
        self._order = order

    def nothing_to_do(self) -> None:
        """The study was complete before."""
        self._front.verdict(f"{self._spec.study}: already complete, nothing to do: {self._folder.path}")

    def complete(self, seconds: float, device: str) -> None:
        """All of the study is done."""
        self._cost(device)
        self._next()
        self._front.verdict(f"complete in {seconds:.0f} s: {self._folder.path}")

    def partial(self, seconds: float, left: int, device: str) -> None:
        """What `--only` and `--limit` asked for is done, and the study is not complete."""
        self._cost(device)
        self._front.say(f"the rest: {again(self._order, whole=True)}")
        self._front.verdict(f"done as asked in {seconds:.0f} s; {_units(left)} left: {self._folder.path}")

    def incomplete(self, seconds: float, left: int, failures: list[Failure], device: str) -> None:
        """Something was set aside."""
        self._cost(device)
        for failure in failures[:_SHOWN_FAILURES]:
            on = f" on {failure.target}" if failure.target else ""
            self._front.say(f"  failed: {failure.unit}{on}: {(failure.error.splitlines() or ['?'])[0]}")
        self._front.say(f"  {counted(len(failures), 'failure')}, in full: {self._folder.failures}")
        self._front.say(f"  once the cause is mended: {again(self._order)}")
        self._front.verdict(f"incomplete after {seconds:.0f} s: {_units(left)} left: {self._folder.path}")

    def stopped(self) -> None:
        """Somebody asked to stop."""
        stopped(self._front, self._order)

    def _cost(self, device: str) -> None:
        """Gradients, and the time that workers crafted for: on GPUs that they share, a share each."""
        front, run = self._front, self._spec.run
        if not front.gradients:
            return
        gpu = not device.startswith("cpu")
        units = 1 / (run.actors_per_gpu or 1) if gpu else self._spec.numerics.threads
        hours, what = front.seconds_crafting * units / 3600, "GPU-hours" if gpu else "core-hours"
        front.say(
            f"cost:     {amount(front.gradients)} image gradients, {hours:.3g} {what} of crafting, in this launch"
        )

    def _next(self) -> None:
        run = shlex.quote(str(self._folder.path))
        name = next(iter(self._spec.experiments))
        self._front.say(f"again:    study show {run}")
        self._front.say(f"a table:  study table {run} --experiment {shlex.quote(name)} --format markdown")
        self._front.say(f"polars:   pl.scan_parquet({self._folder.scanned!r})")


def stopped(front: Display, order: LaunchOptions) -> None:
    """Somebody asked to stop, be it before the study has begun."""
    front.settle()
    front.verdict(f"stopped; what is finished is kept. Go on with: {again(order)}")


def again(order: LaunchOptions, *, whole: bool = False) -> str:
    """The command that goes on; `whole`: without what made it a part of the study."""
    words = ["study", "launch", str(order.spec)]
    words += ["--output", str(storage_path(order.output))] if order.output else []
    words += ["--address", order.address] if order.address else []
    words += ["--allow-code"] if order.allow_code else []
    words += ["--wandb", order.wandb] if order.wandb is not None else []
    for one in order.overrides:
        words += ["--set", one]
    if not whole:
        for one in order.only:
            words += ["--only", one]
        words += ["--limit", str(order.limit)] if order.limit is not None else []
    return shlex.join(words)


def _units(left: int) -> str:
    return f"{left:,} units are" if left != 1 else "1 unit is"
