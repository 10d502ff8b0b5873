"""Gives every call of a backend a time limit: the driver names the call that hangs, and ends instead of hanging too.

Ray's own code may wait for ever, and blocks all signals meanwhile, where one of its processes is stopped or dead. So
one thread makes the calls while the main thread waits for it, and a second thread checks Ray's heartbeat regularly.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from actors.backends.interface import Backend, BackendGone, Call, Device, Ref, Scaling
from actors.resources.placement import Machine, ResourceRequest, Role
from actors.workers.worker_config import WorkerConfig
from study.errors import StudyError, first_line
from study.process.interrupt import Interrupt, Interrupted, hurry
from study.spec.run_options import RunOptions

_TICK_SECONDS = 0.25
_LONGEST_TICK = 1.0
"""Longest time counted between two checks: a pause of this process is no hang of the backend."""
_GRACE_SECONDS = 1.5
"""Time that a running call has left after a signal to stop."""
_HEARTBEAT_SECONDS = 1.0
_LEAST_SECONDS, _CALL_SECONDS, _START_SECONDS, _PIXELS_SECONDS = 10.0, 40.0, 120.0, 300.0
"""Ray ends the driver's process without a message once its GCS is gone for 60 s: our limit must come first."""
_MACHINES_SECONDS = 45.0
"""Above the time in which the machines tell of their GPUs."""
_LAST_HEARTBEAT_SECONDS, _CLOSE_SECONDS = 2.0, 30.0

Value = TypeVar("Value")


@dataclass(frozen=True)
class CallTimeouts:
    """Seconds after which a call hangs: the start of the backend, a call that moves pixels, every other call."""

    start: float = _START_SECONDS
    pixels: float = _PIXELS_SECONDS
    call: float = _CALL_SECONDS

    @classmethod
    def of(cls, run: RunOptions) -> CallTimeouts:
        """The `start_seconds` and `call_seconds` of a spec, within sensible bounds."""
        call = max(run.call_seconds, _LEAST_SECONDS)
        start = max(run.start_seconds, _LEAST_SECONDS)
        return cls(min(start, _START_SECONDS), min(call, _PIXELS_SECONDS), min(call, _CALL_SECONDS))


@runtime_checkable
class MonitoredBackend(Backend, Protocol):
    """A backend in other processes, which may die or stop."""

    awaited: str
    """The name of the process that the present `heartbeat` waits for, for messages."""

    def check(self) -> None:
        """Return at once. Raises BackendGone where a process that calls depend on has died: a call would then end this
        process without a message.
        """

    def heartbeat(self) -> None:
        """Return once every process that calls depend on has answered. Raises BackendGone where one is dead.

        A separate thread calls it repeatedly.
        """


def bounded(
    make: Callable[[], Backend], timeouts: CallTimeouts, interrupt: Interrupt, tell: Callable[[StudyError], None]
) -> Backend:
    """Make a backend with `make`; if it is a `MonitoredBackend`, wrap it so that every call has a time limit.

    `tell` is called at once with the reason why a launch ends; later calls raise the same error. Raises the errors of
    `make`, BackendGone where it exceeds its limit, Interrupted where a signal comes first.
    """
    caller = _Caller(interrupt, tell)
    inner = caller.do("start", timeouts.start, make)
    if not isinstance(inner, MonitoredBackend):
        caller.end()
        return inner
    return _BoundedBackend(inner, caller, timeouts)


class _BoundedBackend:
    """A backend whose methods all go through one `_Caller`."""

    def __init__(self, inner: MonitoredBackend, caller: _Caller, timeouts: CallTimeouts) -> None:
        self.name = inner.name
        self.fixed = inner.fixed
        self._inner = inner
        self._caller = caller
        self._timeouts = timeouts
        caller.monitor(inner, timeouts.call)

    def machines(self) -> list[Machine]:
        # New machines are first asked for the size of their GPUs, which takes longer than other calls.
        return self._caller.do("machines", max(self._timeouts.start, _MACHINES_SECONDS), self._inner.machines)

    def scaling(self) -> Scaling | None:
        return self._caller.do("state of the autoscaler", self._timeouts.call, self._inner.scaling)

    def request(self, workers: int, resources: ResourceRequest) -> None:
        self._caller.do("request to the autoscaler", self._timeouts.call, self._inner.request, workers, resources)

    def start(self, role: Role, resources: ResourceRequest, config: WorkerConfig) -> Any:
        return self._caller.do("start of an actor", self._timeouts.call, self._inner.start, role, resources, config)

    def hello(self, actor: Any) -> Ref:
        return self._caller.do("hello", self._timeouts.call, self._inner.hello, actor)

    def call(self, actor: Any, method: str, arguments: Sequence[Any], pixels: Ref) -> Call:
        return self._caller.do(method, self._timeouts.call, self._inner.call, actor, method, arguments, pixels)

    def wait(self, refs: Sequence[Ref], seconds: float) -> list[Ref]:
        return self._caller.do("wait", seconds + self._timeouts.call, self._inner.wait, refs, seconds)

    def value(self, ref: Ref) -> Any:
        return self._caller.do("value", self._timeouts.call, self._inner.value, ref)

    def pixels(self, ref: Ref) -> NDArray[np.uint8]:
        return self._caller.do("pixels", self._timeouts.pixels, self._inner.pixels, ref)

    def put(self, pixels: NDArray[np.uint8]) -> Ref:
        return self._caller.do("put", self._timeouts.pixels, self._inner.put, pixels)

    def stop(self, actor: Any) -> None:
        self._caller.do("stop", self._timeouts.call, self._inner.stop, actor)

    def set_aside(self, device: Device, actors: Sequence[Any]) -> None:
        self._caller.do("set aside", self._timeouts.call, self._inner.set_aside, device, actors)

    def close(self) -> None:
        """Close the backend. Never raises; the reaper ends a Ray that hangs."""
        self._caller.close(self._inner.close)


class _Caller:
    """A thread that makes calls, one at a time; the main thread waits for each, up to its limit."""

    def __init__(self, interrupt: Interrupt, tell: Callable[[StudyError], None]) -> None:
        self._interrupt = interrupt
        self._tell = tell
        self._requests: queue.SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._broken: BackendGone | Interrupted | None = None
        self._inner: MonitoredBackend | None = None
        self._silence_allowed = 0.0
        self._heartbeats = self._seen = 0
        self._dead: BackendGone | None = None
        self._silent = 0.0
        self._checked = time.monotonic()
        self._over = threading.Event()
        threading.Thread(target=self._make_calls, name="ray", daemon=True).start()

    def monitor(self, inner: MonitoredBackend, seconds: float) -> None:
        """Check the heartbeat of `inner` from now on: it hangs after `seconds` without one."""
        self._inner, self._silence_allowed = inner, seconds
        threading.Thread(target=self._check_heartbeat, args=(inner,), name="heartbeat", daemon=True).start()

    def do(self, what: str, seconds: float, work: Callable[..., Value], *given: Any) -> Value:
        """Return the result of `work(*given)`. BackendGone after `seconds`, Interrupted soon after a signal."""
        return self._do(what, seconds, work, *given, grace=_GRACE_SECONDS)

    def _do(self, what: str, seconds: float, work: Callable[..., Value], *given: Any, grace: float = math.inf) -> Value:
        """`grace`: seconds until a signal interrupts the call."""
        if self._broken is not None:
            raise self._broken
        with self._interrupt.patient():
            self._check()
            self._requests.put((work, given))
            value, error = self._answer(what, seconds, grace)
        if error is not None:
            raise error
        return value  # type: ignore[no-any-return]

    def close(self, work: Callable[[], None]) -> None:
        """Make the last call; skip it where the backend hangs or is dead, because it would hang too."""
        self._over.set()
        inner, self._inner = self._inner, None
        self._tell = lambda _: None
        if self._broken is None:
            with contextlib.suppress(BackendGone):
                if inner is not None:
                    self._do("heartbeat", _LAST_HEARTBEAT_SECONDS, inner.heartbeat)
                self._do("close", _CLOSE_SECONDS, work)
        self.end()

    def end(self) -> None:
        """End the calling thread."""
        self._requests.put(None)

    def _answer(self, what: str, seconds: float, grace: float) -> tuple[Any, BaseException | None]:
        waited = interrupted = 0.0
        while True:
            began = time.monotonic()
            try:
                return self._answers.get(timeout=_TICK_SECONDS)
            except queue.Empty:
                passed = min(time.monotonic() - began, _LONGEST_TICK)
            waited += passed
            interrupted += passed if self._interrupt.status is not None else 0.0
            if interrupted >= grace:
                raise self._give_up(Interrupted())
            self._check()
            if waited >= seconds:
                raise self._give_up(_hangs(f"'{what}' has not returned for {seconds:g} s"))

    def _check(self) -> None:
        """Raise BackendGone where the backend is dead, or has had no heartbeat for too long."""
        now = time.monotonic()
        passed, self._checked = min(now - self._checked, _LONGEST_TICK), now
        if self._inner is None:
            return
        try:
            self._inner.check()
        except BackendGone as error:
            self._dead = error
        if self._dead is not None:
            raise self._give_up(self._dead)
        self._silent = 0.0 if self._seen != self._heartbeats else self._silent + passed
        self._seen = self._heartbeats
        if self._silent >= self._silence_allowed:
            raise self._give_up(_hangs(f"{self._inner.awaited} has not answered for {self._silence_allowed:g} s"))

    def _give_up(self, why: BackendGone | Interrupted) -> BackendGone | Interrupted:
        """Make no further call: Ray's code would hang, or end this process without a message."""
        self._broken = why
        hurry()
        if isinstance(why, BackendGone):
            self._tell(why)
        return why

    def _make_calls(self) -> None:
        while (request := self._requests.get()) is not None:
            work, given = request
            answer: tuple[Any, BaseException | None]
            try:
                answer = (work(*given), None)
            except BaseException as error:  # noqa: BLE001 - raised again in the main thread
                answer = (None, error)
            self._answers.put(answer)
            # A reference left here would keep its object in Ray's store.
            del request, work, given, answer

    def _check_heartbeat(self, inner: MonitoredBackend) -> None:
        while not self._over.wait(_HEARTBEAT_SECONDS):
            try:
                inner.heartbeat()
            except BackendGone as error:
                self._dead = error
                return
            except Exception as error:  # noqa: BLE001 - counts as silence
                inner.awaited = f"{inner.awaited} ({first_line(error)})"
                continue
            self._heartbeats += 1


def _hangs(what: str) -> BackendGone:
    return BackendGone(
        f"Ray hangs: {what}",
        todo="check whether its machine is overloaded, out of memory or cut off, then launch again: "
        "published results are kept",
    )
