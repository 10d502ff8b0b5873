"""Follows a cluster while a study runs: asks its autoscaler for machines as long as tasks wait, and tells of idle GPUs.

An autoscaler may refuse a request as a whole where it can fulfil a part of it. So requests grow in steps: by as many
workers as there are, and by half as many each time nothing comes.
"""

from __future__ import annotations

from collections.abc import Callable

from actors.backends.interface import Backend
from actors.resources.placement import WorkerPool
from study.terminal.screen import counted

_EVERY_SECONDS = 10.0
_ANSWER_SECONDS = 60.0
"""Time in which an autoscaler begins to add machines, if it can."""
_AGAIN_SECONDS = 600.0
"""Time until it is asked again after it has added nothing: other studies may have left machines."""
_TASKS = 2
"""Waiting tasks for each further worker."""


class Growth:
    """The requests of one study to the autoscaler of its cluster."""

    def __init__(self, backend: Backend, pool: WorkerPool, say: Callable[[str], None]) -> None:
        self._backend = backend
        self._pool = pool
        self._say = say
        self._asked: int | None = None
        """None at first: the launch has asked for its first workers."""
        self._workers = 0
        self._step = 1
        self._next = self._since = float("-inf")
        self._idle_gpus = 0.0

    def due(self, now: float) -> bool:
        """Whether `follow` has something to do at time `now`, in seconds of any clock."""
        return now >= self._next

    def follow(self, workers: int, waiting: int, now: float) -> None:
        """Ask for what helps now: there are so many workers, and so many tasks wait for one."""
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
        """Say once for each number of GPUs that they came too late for a study that runs on processors."""
        if self._pool.resources.gpus or self._pool.options.device != "auto":
            return
        gpus = sum(machine.gpus for machine in self._backend.machines())
        if gpus > self._idle_gpus:
            self._say(
                f"{counted(int(gpus), 'GPU')} joined after the start and idle: this launch runs on processors. To use "
                "GPUs, stop it and launch again with --set run.device=gpu; finished work is kept"
            )
        self._idle_gpus = max(self._idle_gpus, gpus)
