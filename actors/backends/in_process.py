"""A backend that runs every call in this process: for debugging, and for tests in milliseconds."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.backends.interface import Call, CallFailed, Device, Ref
from actors.resources.placement import WORKER, Machine, ResourceRequest, Role
from actors.workers.service_worker import ServiceWorker
from actors.workers.worker import Worker
from actors.workers.worker_config import WorkerConfig
from study.errors import StudyError


class InProcess:
    """Runs a call when the driver waits for it, one at a time. `order` draws which, so tests can vary the order."""

    name = "this process"

    def __init__(self, order: random.Random | None = None) -> None:
        self._order = order
        self._ids = itertools.count()
        self._pending: dict[Ref, Callable[[], None]] = {}
        self._values: dict[Ref, Any] = {}

    def machines(self) -> list[Machine]:
        return [Machine(cpus=4.0)]

    def start(self, role: Role, resources: ResourceRequest, config: WorkerConfig) -> Worker | ServiceWorker:
        return (Worker if role == WORKER else ServiceWorker)(config.of(role), "cpu")

    def hello(self, actor: Worker | ServiceWorker) -> Ref:
        ref = next(self._ids)
        self._values[ref] = actor.hello()
        return ref

    def call(self, actor: Any, method: str, arguments: Sequence[Any], pixels: Ref) -> Call:
        value, crafted = next(self._ids), next(self._ids) if method == "craft" else None

        def run() -> None:
            try:
                answer: Any = getattr(actor, method)(*arguments, self._values[pixels])
            except StudyError as error:
                self._values[value] = error
                return
            except Exception as error:  # noqa: BLE001 - raised again by `value`
                self._values[value] = CallFailed.of(error)
                return
            if crafted is not None:
                self._values[value], self._values[crafted] = answer
            else:
                self._values[value] = answer

        self._pending[value] = run
        return Call(value, crafted)

    def wait(self, refs: Sequence[Ref], seconds: float) -> list[Ref]:
        if not any(ref in self._values for ref in refs):
            waiting = [ref for ref in self._pending if ref in set(refs)]
            if waiting:
                chosen = self._order.choice(waiting) if self._order else waiting[0]
                self._pending.pop(chosen)()
        return [ref for ref in refs if ref in self._values]

    def value(self, ref: Ref) -> Any:
        value = self._values.pop(ref)
        if isinstance(value, Exception):
            raise value
        return value

    def pixels(self, ref: Ref) -> NDArray[np.uint8]:
        found: NDArray[np.uint8] = self._values[ref]
        return found

    def put(self, pixels: NDArray[np.uint8]) -> Ref:
        ref = next(self._ids)
        frozen = pixels.copy()
        frozen.flags.writeable = False
        self._values[ref] = frozen
        return ref

    def stop(self, actor: Worker | ServiceWorker) -> None:
        """Does nothing: an actor here is an object without a process."""

    def set_aside(self, device: Device, actors: Sequence[Any]) -> None:
        """Does nothing: all actors share one device."""

    def close(self) -> None:
        self._pending.clear()
        self._values.clear()
