"""Asks the autoscaler of a cluster for machines while tasks wait, and tells the user about GPUs that cannot be used.

An autoscaler may refuse a whole request even if it could fulfil a part of it. So a request asks for a limited number of
further workers. At first, this number equals the number of present workers. Whenever no machine joins in time, the
number is halved.
"""

from __future__ import annotations

from collections.abc import Callable

from actors.backends.interface import Backend
from actors.resources.placement import WorkerPool
from study.terminal.screen import counted

_EVERY_SECONDS = 10.0
_ANSWER_SECONDS = 60.0
"""Seconds within which an autoscaler begins to add machines, if it can add any."""
_AGAIN_SECONDS = 600.0
"""Seconds after which the autoscaler is asked again if it has added nothing. By then, other studies may have released
machines."""
_TASKS = 2
"""Number of waiting tasks for which one further worker is requested."""


class Growth:
    """The requests of one study to the autoscaler of its cluster."""

    def __init__(self, backend: Backend, pool: WorkerPool, say: Callable[[str], None]) -> None:
        self._backend = backend
        self._pool = pool
        self._say = say
        self._asked: int | None = None
        """The number of workers in the last request. None at first, so that the first call of `follow` always sends a
        request. This request replaces the launch's own request for its first workers."""
        self._workers = 0
        self._step = 1
        self._next = self._since = float("-inf")
        self._idle_gpus = 0.0

    def due(self, now: float) -> bool:
        """Return whether `follow` should be called. `now` is a time in seconds, by any clock."""
        return now >= self._next

    def follow(self, workers: int, waiting: int, now: float) -> None:
        """Ask the autoscaler for further machines, or withdraw the request.

        `workers`: the present number of workers. `waiting`: the number of tasks that wait for a worker. `now`: as in
        `due`.
        """
        self._next = now + _EVERY_SECONDS
        self._tell_of_idle_gpus()
        scaling = self._backend.scaling()
        if scaling is None:
            return
        if workers > self._workers:
            self._step, self._since = workers, now
        elif workers < self._workers:
            self._step, self._since = self._workers - workers, now
        elif not scaling.coming and now - self._since >= (_ANSWER_SECONDS if self._step else _AGAIN_SECONDS):
            self._step, self._since = self._step // 2 if self._step else 1, now
        self._workers = workers
        wanted = workers + min(self._step, -(-waiting // _TASKS))
        most = self._pool.options.workers
        wanted = wanted if most is None else min(wanted, most)
        self._ask(wanted if wanted > workers else 0)

    def _ask(self, workers: int) -> None:
        if workers != self._asked:
            self._backend.request(workers, self._pool.resources)
            self._asked = workers

    def _tell_of_idle_gpus(self) -> None:
        """Tell the user about GPUs that joined too late for a study that runs on processors.

        The message is repeated if more GPUs join.
        """
        if self._pool.resources.gpus or self._pool.options.device != "auto":
            return
        gpus = sum(machine.gpus for machine in self._backend.machines())
        if gpus > self._idle_gpus:
            self._say(
                f"{counted(int(gpus), 'GPU')} joined after the start but cannot be used: this launch runs on "
                "processors. To use GPUs, stop the launch and launch again with --set run.device=gpu; finished work is "
                "kept"
            )
        self._idle_gpus = max(self._idle_gpus, gpus)
