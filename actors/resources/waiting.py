"""Waits for the machines that the first workers of a study need, and asks the autoscaler of the cluster for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from actors.backends.interface import Backend, Scaling
from actors.resources import placement
from actors.resources.placement import ResourceRequest, WorkerOptions
from study.errors import StudyError
from study.spec.run_options import RunOptions
from study.terminal.screen import counted

WAIT_SECONDS = 900.0
"""The default of `run.wait_seconds` on a cluster with an autoscaler: a cloud machine with GPUs takes minutes."""

_ANSWER_SECONDS = 60.0
"""Time in which an autoscaler begins to add machines, if it can."""

_REPORT_SECONDS = 15.0
"""Time in which the autoscaler of a cluster that was just started reports for the first time."""

_TELL_SECONDS = 60.0
_TICK_SECONDS = 1.0


class Waiting:
    """The wait of one launch, before its workers are planned."""

    def __init__(
        self,
        backend: Backend,
        run: RunOptions,
        say: Callable[[str], None],
        check: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`check` may raise; it is called while this waits."""
        self._backend = backend
        self._run = run
        self._say = say
        self._check = check
        self._clock = clock
        self._limit = 0.0
        self._begun = clock()
        self.asked = 0
        """Workers that the autoscaler was asked for."""

    def machines_for(self, options: WorkerOptions, fits: Callable[[WorkerOptions], object]) -> WorkerOptions:
        """Return once a worker fits on the machines: the options to plan with, on the device that is there.

        `fits` raises StudyError, with the numbers, where none does. With an autoscaler, `auto` asks for a GPU first,
        and for processors if none begins to come within a minute. Raises the last error of `fits` after
        `run.wait_seconds`.
        """
        self._limit = self._patience(options, fits)
        if not self._limit:
            fits(options)
            return options
        # The rest of a given number of workers begins as machines join.
        options = replace(options, fewer=True)
        there = self._backend.machines()
        if options.device != "auto" or placement.on_gpus(there, "auto") or self._backend.scaling() is None:
            return self._wait(options, fits, self._limit)
        try:
            return self._wait(replace(options, device="gpu"), fits, min(self._limit, _ANSWER_SECONDS))
        except StudyError:
            self._say("the autoscaler adds no GPU: workers run on processors")
        return self._wait(options, fits, self._limit)

    def _patience(self, options: WorkerOptions, fits: Callable[[WorkerOptions], object]) -> float:
        """Seconds to wait: as the spec says, or if there is an autoscaler. A new one is not seen at once."""
        if self._backend.fixed:
            return 0.0
        if self._run.wait_seconds is not None:
            return self._run.wait_seconds
        while self._backend.scaling() is None:
            try:
                fits(options)
            except StudyError:
                if self._clock() - self._begun < _REPORT_SECONDS:
                    self._check()
                    self._backend.wait([], _TICK_SECONDS)
                    continue
            return 0.0
        return WAIT_SECONDS

    def _wait(self, options: WorkerOptions, fits: Callable[[WorkerOptions], object], limit: float) -> WorkerOptions:
        """Wait for `limit` seconds since the start, and, while machines are coming, up to `run.wait_seconds`."""
        told, wanted = -_TELL_SECONDS, options.workers or 1
        while True:
            try:
                fits(options)
            except StudyError as error:
                failed = error
            else:
                if self.asked:
                    self._say(f"a machine came after {self._clock() - self._begun:.0f} s")
                return options
            waited, scaling = self._clock() - self._begun, self._backend.scaling()
            coming = 0 if scaling is None else scaling.coming
            if waited >= self._limit or (waited >= limit and not coming):
                self._ask(0, options)
                raise _late(failed, waited)
            if scaling is not None and waited >= _ANSWER_SECONDS and not coming:
                # What cannot be fulfilled as a whole may be refused as a whole.
                wanted = 1
            self._ask(wanted, options)
            if waited >= told + _TELL_SECONDS:
                told = waited
                self._say(_told(options, failed, scaling, limit))
            self._check()
            self._backend.wait([], _TICK_SECONDS)

    def _ask(self, further: int, options: WorkerOptions) -> None:
        """Ask for so many workers in addition to those that the machines have GPUs or cores for; 0 withdraws."""
        machines = placement.usable(self._backend.machines(), options.device)
        gpus = placement.on_gpus(machines, options.device)
        each = ResourceRequest(0, 1 / (options.per_gpu or 1)) if gpus else ResourceRequest(options.threads, 0)
        workers = further and further + placement.fitting_workers(machines, each)
        if workers != self.asked:
            self._backend.request(workers, each)
            self.asked = workers


def _told(options: WorkerOptions, failed: StudyError, scaling: Scaling | None, limit: float) -> str:
    what = "a GPU" if options.device == "gpu" else "a machine"
    asked = "" if scaling is None else "; the autoscaler is asked for one"
    coming = f", and {counted(scaling.coming, 'machine')} will join" if scaling and scaling.coming else ""
    return f"waiting for {what}, {limit:g} s at most: {failed.what}{asked}{coming}"


def _late(failed: StudyError, waited: float) -> StudyError:
    failed.what = f"{failed.what}, after {waited:.0f} s of waiting"
    failed.todo = f"{failed.todo}; or raise run.wait_seconds" if failed.todo else "raise run.wait_seconds"
    return failed
