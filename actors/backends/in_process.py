"""The backend that is this process: for debugging, and for tests in milliseconds."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.backends.interface import Call, CallFailed, Device, Ref
from actors.resources.placement import WORKER, Machine, ResourceRequest, Role
from actors.workers.service_worker import Asker
from actors.workers.worker import Worker
from actors.workers.worker_config import WorkerConfig
from study.errors import StudyError


class InProcess:
    """Runs one call at a time, when it is waited for; `order` picks which, to try every order of completion."""

    name = "this process"

    def __init__(self, order: random.Random | None = None) -> None:
        self._order = order
        self._ids = itertools.count()
        self._pending: dict[Ref, Callable[[], None]] = {}
        self._values: dict[Ref, Any] = {}

    def machines(self) -> list[Machine]:
        return [Machine(cpus=4.0)]

    def start(self, role: Role, share: ResourceRequest, kit: WorkerConfig) -> Worker | Asker:
        return Worker(kit.of(role), "cpu") if role == WORKER else Asker(kit.of(role), "cpu")

    def hello(self, actor: Worker | Asker) -> Ref:
        ref = next(self._ids)
        self._values[ref] = actor.hello()
        return ref

    def call(self, actor: Any, method: str, arguments: Sequence[Any], pixels: Ref) -> Call:
        value, made = next(self._ids), next(self._ids) if method == "craft" else None

        def run() -> None:
            try:
                answer: Any = getattr(actor, method)(*arguments, self._values[pixels])
            except StudyError as error:
                self._values[value] = error
                return
            except Exception as error:  # noqa: BLE001 - raised again by `value`
                self._values[value] = CallFailed.of(error)
                return
            if made is not None:
                self._values[value], self._values[made] = answer
            else:
                self._values[value] = answer

        self._pending[value] = run
        return Call(value, made)

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

    def stop(self, actor: Worker | Asker) -> None:
        """Nothing outlives its reference here."""

    def set_aside(self, device: Device, actors: Sequence[Any]) -> None:
        """There is one device here, which no actor names."""

    def close(self) -> None:
        self._pending.clear()
        self._values.clear()
