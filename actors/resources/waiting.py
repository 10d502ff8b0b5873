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
"""The default of `run.wait_seconds` on a cluster with an autoscaler. A cloud machine with GPUs takes minutes to
join."""

_ANSWER_SECONDS = 60.0
"""Seconds within which an autoscaler begins to add machines, if it can add any."""

_REPORT_SECONDS = 15.0
"""Seconds within which the autoscaler of a cluster that has just started reports its state for the first time."""

_TELL_SECONDS = 60.0
_TICK_SECONDS = 1.0


class Waiting:
    """The wait of one launch for machines, before its workers are planned."""

    def __init__(
        self,
        backend: Backend,
        run: RunOptions,
        say: Callable[[str], None],
        check: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`say` prints a line for the user. `check` is called about once a second during the wait, and may raise."""
        self._backend = backend
        self._run = run
        self._say = say
        self._check = check
        self._clock = clock
        self._limit = 0.0
        self._begun = clock()
        self.asked = 0
        """The number of workers in the last request to the autoscaler; 0 without a request."""

    def machines_for(self, options: WorkerOptions, fits: Callable[[WorkerOptions], object]) -> WorkerOptions:
        """Wait until a worker fits on the machines. Returns the options for planning the workers.

        `fits` raises StudyError, with the numbers, if no worker fits. If the device is `auto` and the cluster has an
        autoscaler, a GPU is requested first. If no machine is about to join after a minute, processors are requested
        instead. After `run.wait_seconds`, the last error of `fits` is raised.
        """
        self._limit = self._patience(options, fits)
        if not self._limit:
            fits(options)
            return options
        # Fewer workers than `run.actors` may start now. Further workers start when machines join.
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
        """Return how many seconds to wait for machines.

        This is 0 if no further machine can join. Otherwise it is `run.wait_seconds` if the spec sets it. Without this
        key, it is WAIT_SECONDS if there is an autoscaler, and 0 if not. A new autoscaler takes some seconds to report
        its state. So if no worker fits, this method waits for a report, for at most `_REPORT_SECONDS`.
        """
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
        """Wait until a worker fits, and return `options`. Raises the error of `fits` if the wait takes too long.

        The wait ends when `limit` seconds have passed since this object was created. But while machines are about to
        join, the wait ends only after `run.wait_seconds`.
        """
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
                # An autoscaler may refuse a whole request that it cannot fulfil completely. So ask for one worker only.
                wanted = 1
            self._ask(wanted, options)
            if waited >= told + _TELL_SECONDS:
                told = waited
                self._say(_told(options, failed, scaling, limit))
            self._check()
            self._backend.wait([], _TICK_SECONDS)

    def _ask(self, further: int, options: WorkerOptions) -> None:
        """Request machines for `further` workers, in addition to the workers that the present machines can run.

        If `further` is 0, the request is withdrawn.
        """
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
    return f"waiting for {what}, {limit:g} s at most if no machine is about to join: {failed.what}{asked}{coming}"


def _late(failed: StudyError, waited: float) -> StudyError:
    failed.what = f"{failed.what}, after {waited:.0f} s of waiting"
    failed.todo = f"{failed.todo}; or raise run.wait_seconds" if failed.todo else "raise run.wait_seconds"
    return failed
