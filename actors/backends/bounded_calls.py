"""Gives every call of a backend a time limit. If a call hangs, the launch ends with a message instead of hanging too.

If one of Ray's processes is stopped or dead, Ray's own code may wait for ever, and block all signals during this wait.
So a separate thread makes the calls, and the main thread waits for the answers with a time limit. Another thread
checks regularly whether Ray still answers (the heartbeat).

A switch between two threads takes about as long as a call of Ray. So the main thread waits only once in each step of
the driver, in `wait`. This method also fetches the values that are ready. The main thread does not wait for the start
of a task.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from actors.backends.interface import Backend, BackendGone, Call, CallRequest, Device, Ref, Scaling
from actors.resources.placement import Machine, ResourceRequest, Role
from actors.workers.worker_config import WorkerConfig
from study.errors import StudyError, first_line
from study.process.interrupt import Interrupt, Interrupted, hurry
from study.spec.run_options import RunOptions

_TICK_SECONDS = 0.25
_LONGEST_TICK = 1.0
"""The most seconds between two checks that count as waiting for Ray. If this process was paused for longer, the rest of
the pause does not count."""
_GRACE_SECONDS = 1.5
"""Seconds that a running call may still take after a signal to stop."""
_HEARTBEAT_SECONDS = 1.0
_LEAST_SECONDS, _CALL_SECONDS, _START_SECONDS, _PIXELS_SECONDS = 10.0, 40.0, 120.0, 300.0
"""Bounds, in seconds, of the limits that a spec sets: the least limit, and then the largest limits of a usual call, of
the start, and of a call that moves pixels.

If Ray's GCS (its central server) dies, Ray ends the driver's process after 60 s without a message. So the limit of a
usual call is shorter."""
_MACHINES_SECONDS = 45.0
"""Least limit of the list of machines, longer than the time that the backend waits for the memory sizes of GPUs."""
_LAST_HEARTBEAT_SECONDS, _CLOSE_SECONDS = 2.0, 30.0
_FETCH_SECONDS = 1.0
"""Seconds beyond the time limit of a `wait` after which it fetches no further value. The remaining values are then
fetched one by one, each with its own limit."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class CallTimeouts:
    """Time limits of calls, in seconds. A call that takes longer counts as hanging.

    Attributes:
        start: Limit of the start of the backend.
        pixels: Limit of a call that moves pixels.
        call: Limit of every other call.
        machines: Least limit of the list of machines, which includes the sizes of their GPUs.
    """

    start: float = _START_SECONDS
    pixels: float = _PIXELS_SECONDS
    call: float = _CALL_SECONDS
    machines: float = _MACHINES_SECONDS

    @classmethod
    def of(cls, run: RunOptions) -> CallTimeouts:
        """Return the limits that follow from `start_seconds` and `call_seconds` of a spec, within fixed bounds."""
        call = max(run.call_seconds, _LEAST_SECONDS)
        start = max(run.start_seconds, _LEAST_SECONDS)
        return cls(min(start, _START_SECONDS), min(call, _PIXELS_SECONDS), min(call, _CALL_SECONDS))


@runtime_checkable
class MonitoredBackend(Backend, Protocol):
    """A backend whose calls depend on other processes, which may die or hang."""

    awaited: str
    """The name of the process for whose answer `heartbeat` waits now. Messages contain this name."""

    def check(self) -> None:
        """Raise BackendGone if a process on which calls depend has died; otherwise return at once.

        After the death of such a process, Ray would end this process in the next call, without a message.
        """

    def heartbeat(self) -> None:
        """Wait until every process on which calls depend has answered. Raises BackendGone if such a process is dead.

        A separate thread calls this method repeatedly.
        """


def bounded(
    make: Callable[[], Backend], timeouts: CallTimeouts, interrupt: Interrupt, tell: Callable[[StudyError], None]
) -> Backend:
    """Return the backend that `make` makes. If it is a `MonitoredBackend`, all its calls get time limits.

    In this case, the backend is wrapped. If a call hangs or the backend is dead, the wrapper calls `tell` at once with
    the error that ends the launch. Later calls raise the same error. This function raises the errors of `make`,
    BackendGone if `make` exceeds its limit, and Interrupted if a signal comes first.
    """
    caller = _Caller(interrupt, tell)
    inner = caller.do("start", timeouts.start, make)
    if not isinstance(inner, MonitoredBackend):
        caller.end()
        return inner
    return _BoundedBackend(inner, caller, timeouts)


class _BoundedBackend:
    """Wraps a backend: the thread of a `_Caller` makes all calls, each with a time limit."""

    def __init__(self, inner: MonitoredBackend, caller: _Caller, timeouts: CallTimeouts) -> None:
        self.name = inner.name
        self.fixed = inner.fixed
        self._inner = inner
        self._caller = caller
        self._timeouts = timeouts
        self._fetched: dict[Ref, _Outcome] = {}
        caller.monitor(inner, timeouts.call)

    def machines(self) -> list[Machine]:
        # The limit is longer here, because the backend first asks new machines for the sizes of their GPUs.
        return self._caller.do("machines", max(self._timeouts.start, self._timeouts.machines), self._inner.machines)

    def scaling(self) -> Scaling | None:
        return self._caller.do("state of the autoscaler", self._timeouts.call, self._inner.scaling)

    def request(self, workers: int, resources: ResourceRequest) -> None:
        self._caller.do("request to the autoscaler", self._timeouts.call, self._inner.request, workers, resources)

    def start(self, role: Role, resources: ResourceRequest, config: WorkerConfig) -> Any:
        return self._caller.do("start of an actor", self._timeouts.call, self._inner.start, role, resources, config)

    def hello(self, actor: Any) -> Ref:
        return self._caller.do("hello", self._timeouts.call, self._inner.hello, actor)

    def call(self, actor: Any, method: str, arguments: Sequence[Any], pixels: Ref) -> Call:
        """Let the calling thread start a call on an actor, without waiting for it.

        The calling thread makes its calls in order, so it starts this call before any later one. If the start fails or
        hangs, the next method that waits raises the error.
        """
        return self._post(actor, [CallRequest(method, arguments, pixels)])[0]

    def bundle(self, actor: Any, requests: Sequence[CallRequest]) -> list[Call]:
        """Let the calling thread start several short calls of an actor, as `call` does for one call."""
        return self._post(actor, requests)

    def _post(self, actor: Any, requests: Sequence[CallRequest]) -> list[Call]:
        later = [Call(_Later(), _Later() if request.method == "craft" else None) for request in requests]
        what = " + ".join(request.method for request in requests)
        self._caller.post(what, self._timeouts.call, self._start, later, actor, requests)
        return later

    def _start(self, later: Sequence[Call], actor: Any, requests: Sequence[CallRequest]) -> None:
        known = [request._replace(pixels=_now(request.pixels)) for request in requests]
        started = [self._inner.call(actor, *known[0])] if len(known) == 1 else self._inner.bundle(actor, known)
        for mine, call in zip(later, started, strict=True):
            cast("_Later", mine.value).ref = call.value
            if mine.pixels is not None:
                cast("_Later", mine.pixels).ref = call.pixels

    def activity(self, actor: Any) -> str:
        """Return the progress that the actor last reported.

        This sends no request, because the heartbeat of the backend reads the reports.
        """
        return self._inner.activity(actor)

    def wait(self, refs: Sequence[Ref], seconds: float) -> list[Ref]:
        """Wait until at least one of `refs` is ready, and return those that are ready.

        This also fetches the ready values. `value` then returns the fetched values.
        """
        ready, self._fetched = self._caller.do("wait", seconds + self._timeouts.call, self._wait, refs, seconds)
        return ready

    def _wait(self, refs: Sequence[Ref], seconds: float) -> tuple[list[Ref], dict[Ref, _Outcome]]:
        known = {_now(ref): ref for ref in refs}
        fetched, began = dict[Ref, _Outcome](), time.monotonic()
        ready = self._inner.wait(list(known), seconds)
        for one in ready:
            fetched[known[one]] = _outcome(self._inner.value, one)
            if time.monotonic() - began > seconds + _FETCH_SECONDS:
                # `value` fetches the remaining values one by one, each with its own limit.
                break
        return [known[one] for one in ready], fetched

    def value(self, ref: Ref) -> Any:
        fetched = self._fetched.pop(ref, None)
        if fetched is None:
            return self._caller.do("value", self._timeouts.call, self._inner.value, _now(ref))
        value, error = fetched
        if error is not None:
            raise error
        return value

    def pixels(self, ref: Ref) -> NDArray[np.uint8]:
        return self._caller.do("pixels", self._timeouts.pixels, lambda: self._inner.pixels(_now(ref)))

    def put(self, pixels: NDArray[np.uint8]) -> Ref:
        return self._caller.do("put", self._timeouts.pixels, self._inner.put, pixels)

    def stop(self, actor: Any) -> None:
        self._caller.do("stop", self._timeouts.call, self._inner.stop, actor)

    def set_aside(self, device: Device, actors: Sequence[Any]) -> None:
        self._caller.do("set aside", self._timeouts.call, self._inner.set_aside, device, actors)

    def close(self) -> None:
        """Close the backend. Raises no BackendGone. If a local Ray hangs, its helper process (the reaper) ends it."""
        self._caller.close(self._inner.close)


_Outcome = tuple[Any, BaseException | None]
"""The result of a call, and the exception that it raised; None if it raised none."""


class _Later:
    """A reference that is not known yet. The calling thread sets it when it has started the call."""

    __slots__ = ("ref",)

    def __init__(self) -> None:
        self.ref: Ref = None


def _now(ref: Ref) -> Ref:
    """Return the wrapped backend's own reference, for which `ref` stands."""
    return ref.ref if isinstance(ref, _Later) else ref


def _outcome(work: Callable[..., Any], *given: Any) -> _Outcome:
    try:
        return work(*given), None
    except BaseException as error:  # noqa: BLE001 - raised again in the main thread
        return None, error


class _Request(NamedTuple):
    """A call for the calling thread to make.

    Attributes:
        what: The name of the call, for messages.
        seconds: The time limit of the call.
        work: The function to call.
        given: The arguments of `work`.
        awaited: Whether the main thread waits for the result.
    """

    what: str
    seconds: float
    work: Callable[..., Any]
    given: tuple[Any, ...]
    awaited: bool


class _Caller:
    """A thread that makes calls one at a time, each with a time limit."""

    def __init__(self, interrupt: Interrupt, tell: Callable[[StudyError], None]) -> None:
        self._interrupt = interrupt
        self._tell = tell
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[_Outcome] = queue.SimpleQueue()
        self._doing: tuple[str, float] | None = None
        """The name and the limit of the call that runs now; None if no call runs."""
        self._made = 0
        """Number of calls that have returned."""
        self._failed: BaseException | None = None
        """The error of a posted call, for which the main thread did not wait. The next call raises it instead."""
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
        """Check regularly, in another thread, whether `inner` still answers.

        After `seconds` without an answer, `inner` counts as hanging.
        """
        self._inner, self._silence_allowed = inner, seconds
        threading.Thread(target=self._check_heartbeat, args=(inner,), name="heartbeat", daemon=True).start()

    def post(self, what: str, seconds: float, work: Callable[..., object], *given: Any) -> None:
        """Let the thread call `work(*given)`, without waiting for the result.

        If the call fails, the next `do` raises the error. `what`: the name of the call, for messages. `seconds`: the
        time limit of the call.
        """
        if self._broken is not None:
            raise self._broken
        self._requests.put(_Request(what, seconds, work, given, awaited=False))

    def do(self, what: str, seconds: float, work: Callable[..., Value], *given: Any) -> Value:
        """Let the thread call `work(*given)`, and return the result.

        Raises BackendGone if the call takes longer than `seconds`, and Interrupted soon after a signal. `what`: the
        name of the call, for messages.
        """
        return self._do(what, seconds, work, *given, grace=_GRACE_SECONDS)

    def _do(self, what: str, seconds: float, work: Callable[..., Value], *given: Any, grace: float = math.inf) -> Value:
        """Do the same as `do`. `grace`: seconds that the call may still take after a signal."""
        if self._broken is not None:
            raise self._broken
        with self._interrupt.patient():
            self._check()
            self._requests.put(_Request(what, seconds, work, given, awaited=True))
            value, error = self._answer(what, seconds, grace)
        if isinstance(error, BackendGone):
            raise self._give_up(error)
        if error is not None:
            raise error
        return value  # type: ignore[no-any-return]

    def close(self, work: Callable[[], None]) -> None:
        """Make the last call, `work`, and end the thread.

        If the backend hangs or is dead, `work` is not called, because it would hang too.
        """
        self._over.set()
        inner, self._inner = self._inner, None
        self._tell = lambda _: None
        if self._broken is None:
            with contextlib.suppress(BackendGone):
                if inner is not None:
                    # If the heartbeat hangs, `_do` refuses to call `work`. Other errors, such as those of an earlier
                    # posted call, no longer matter.
                    with contextlib.suppress(Exception):
                        self._do("heartbeat", _LAST_HEARTBEAT_SECONDS, inner.heartbeat)
                self._do("close", _CLOSE_SECONDS, work)
        self.end()

    def end(self) -> None:
        """End the calling thread."""
        self._requests.put(None)

    def _answer(self, what: str, seconds: float, grace: float) -> _Outcome:
        waited = interrupted = 0.0
        made = self._made
        while True:
            began = time.monotonic()
            try:
                return self._answers.get(timeout=_TICK_SECONDS)
            except queue.Empty:
                passed = min(time.monotonic() - began, _LONGEST_TICK)
            # Calls that were posted earlier run first. Each call has its own limit, so the time starts again when a
            # call returns.
            waited, made = (waited if made == self._made else 0.0) + passed, self._made
            interrupted += passed if self._interrupt.status is not None else 0.0
            if interrupted >= grace:
                raise self._give_up(Interrupted())
            self._check()
            running, limit = self._doing or (what, seconds)
            if waited >= limit:
                raise self._give_up(_hangs(f"'{running}' has not returned for {limit:g} s"))

    def _check(self) -> None:
        """Raise BackendGone if the backend is dead, or has not answered for too long."""
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
        """Refuse all further calls from now on. Returns the reason `why`, for the caller to raise.

        In a further call, Ray's code would hang, or end this process without a message.
        """
        self._broken = why
        hurry()
        if isinstance(why, BackendGone):
            self._tell(why)
        return why

    def _make_calls(self) -> None:
        while (request := self._requests.get()) is not None:
            self._doing = request.what, request.seconds
            outcome = _outcome(self._make, request)
            self._doing = None
            self._made += 1
            if request.awaited:
                self._answers.put(outcome)
            elif outcome[1] is not None:
                self._failed = outcome[1]
            # If these variables kept a reference, its object would stay in Ray's object store.
            del request, outcome

    def _make(self, request: _Request) -> Any:
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed
        inner = self._inner
        if inner is not None:
            inner.check()
        return request.work(*request.given)

    def _check_heartbeat(self, inner: MonitoredBackend) -> None:
        while not self._over.wait(_HEARTBEAT_SECONDS):
            try:
                inner.heartbeat()
            except BackendGone as error:
                self._dead = error
                return
            except Exception as error:  # noqa: BLE001 - the error counts as silence
                inner.awaited = f"{inner.awaited} ({first_line(error)})"
                continue
            self._heartbeats += 1


def _hangs(what: str) -> BackendGone:
    return BackendGone(
        f"Ray hangs: {what}",
        todo="check whether a machine of Ray is overloaded, out of memory or cut off from the network, then launch "
        "again: published results are kept",
    )
