"""A backend that runs every call in this process: for notebooks, for debuggers, and for fast tests."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from actors.backends.interface import BackendGone, Call, CallFailed, CallRequest, Device, Ref, Scaling
from actors.resources import object_store
from actors.resources.placement import WORKER, Machine, ResourceRequest, Role
from actors.workers.service_worker import ServiceWorker
from actors.workers.worker import Worker
from actors.workers.worker_config import WorkerConfig
from study.errors import StudyError, first_line
from study.events import activity
from study.models.device_errors import device_failed
from study.process.interrupt import Interrupt
from study.reproducibility import hardware


class _Held:
    """A reference that contains its value. Pixels are freed when nothing refers to them any more."""

    def __init__(self, number: int, value: Any = None) -> None:
        self.number = number
        self.value = value
        self.work: Callable[[], None] | None = None
        """The call that will set the value; None once the value is set."""


class InProcess:
    """Runs calls in this process, one at a time. A call runs when the driver waits for its result."""

    name = "this process"
    fixed = True

    def __init__(
        self,
        order: random.Random | None = None,
        *,
        machine: Machine | None = None,
        interrupt: Interrupt | None = None,
        raises: bool = False,
    ) -> None:
        """Create the backend. The defaults are for tests.

        `order` chooses at random the call that runs next. If it is None, the oldest call runs next. `machine`: the
        machine for which workers are planned; by default it has four cores. `interrupt`: if it is given, a signal ends
        a running call at once. `raises`: for a debugger, whether `wait` raises the original error of a call that fails.
        If it is False, the error becomes the outcome of the call, as on Ray. A StudyError always becomes the outcome of
        the call, except BackendGone, which `wait` always raises.
        """
        self._order = order
        self._machine = machine or Machine(cpus=4.0)
        self._interrupt = interrupt
        self._raises = raises
        self._ids = itertools.count()

    def machines(self) -> list[Machine]:
        return [self._machine]

    def scaling(self) -> Scaling | None:
        """Return None, because no autoscaler can add machines to this process."""
        return None

    def request(self, workers: int, resources: ResourceRequest) -> None:
        """Do nothing, because no autoscaler can add machines to this process."""

    def start(self, role: Role, resources: ResourceRequest, config: WorkerConfig) -> Worker | ServiceWorker:
        return (Worker if role == WORKER else ServiceWorker)(config.of(role), resources.device)

    def hello(self, actor: Worker | ServiceWorker) -> Ref:
        with _device_failures():
            return self._new(actor.hello())

    def call(self, actor: Any, method: str, arguments: Sequence[Any], pixels: Ref) -> Call:
        value, crafted = self._new(), self._new() if method == "craft" else None

        def run() -> None:
            try:
                with _device_failures():
                    answer: Any = getattr(actor, method)(*arguments, _held(pixels).value)
            except BackendGone:
                raise
            except StudyError as error:
                value.value = error
            except Exception as error:
                if self._raises:
                    raise
                value.value = CallFailed.of(error)
            else:
                if crafted is not None:
                    value.value, crafted.value = answer
                else:
                    value.value = answer

        value.work = run
        return Call(value, crafted)

    def bundle(self, actor: Any, requests: Sequence[CallRequest]) -> list[Call]:
        return [self.call(actor, *request) for request in requests]

    def activity(self, actor: Worker | ServiceWorker) -> str:
        """Return the progress of the only call that runs in this process."""
        return activity.here.text

    def wait(self, refs: Sequence[Ref], seconds: float) -> list[Ref]:
        if all(_held(ref).work for ref in refs):
            waiting = sorted(map(_held, refs), key=lambda one: one.number)
            if waiting:
                self._run(self._order.choice(waiting) if self._order else waiting[0])
        return [ref for ref in refs if _held(ref).work is None]

    def _run(self, call: _Held) -> None:
        assert call.work is not None, "a call runs only once"
        with self._interrupt.impatient() if self._interrupt else contextlib.nullcontext():
            call.work()
        call.work = None

    def value(self, ref: Ref) -> Any:
        value = _held(ref).value
        if isinstance(value, Exception):
            raise value
        return value

    def pixels(self, ref: Ref) -> NDArray[np.uint8]:
        found: NDArray[np.uint8] = _held(ref).value
        return found

    def put(self, pixels: NDArray[np.uint8]) -> Ref:
        frozen = pixels.copy()
        frozen.flags.writeable = False
        return self._new(frozen)

    def stop(self, actor: Worker | ServiceWorker) -> None:
        """Do nothing, because an actor of this backend is an object without a process."""

    def set_aside(self, device: Device, actors: Sequence[Any]) -> None:
        """Do nothing, because all actors share the only device."""

    def close(self) -> None:
        """Do nothing, because Python frees the objects of this backend when nothing refers to them any more."""

    def _new(self, value: Any = None) -> _Held:
        return _Held(next(self._ids), value)


@contextlib.contextmanager
def _device_failures() -> Iterator[None]:
    """Return a context that turns the failure of a device into BackendGone.

    After such a failure, this process cannot use the device any more.
    """
    try:
        yield
    except Exception as error:
        if not device_failed(error):
            raise
        raise BackendGone(
            f"the device of this process failed: {type(error).__name__}: {first_line(error)}",
            todo="check the device (nvidia-smi, and the kernel's log for Xid messages), then launch again: published "
            "results are kept",
        ) from error


def this_machine() -> Machine:
    """Return the description of this machine, for one worker in this process.

    It has the number of cores, the free memory, and, if torch can use a GPU, one GPU with its free memory.
    """
    cores, memory = float(os.cpu_count() or 1), object_store.free_memory()
    if not hardware.gpu_available():
        return Machine(cores, memory=memory)
    return Machine(cores, 1.0, memory, hardware.free_gpu_memory("cuda:0"))


def _held(ref: Ref) -> _Held:
    return cast("_Held", ref)
