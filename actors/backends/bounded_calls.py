"""A backend whose every call has a bound: what hangs inside it is named, and the driver goes on without it.

Ray's own code may wait for ever, and holds every signal back, where one of its processes is stopped or dead. So a
thread makes the calls, the main thread waits for it, and a second thread asks again and again whether Ray is there.
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

from actors.backends.interface import Backend, BackendGone, Call, Device, Ref
from actors.resources.placement import Machine, ResourceRequest, Role
from actors.workers.worker_config import WorkerConfig
from study.errors import StudyError, first_line
from study.process.interrupt import Interrupt, Interrupted, hurry
from study.spec.run_options import Run

_TICK_SECONDS = 0.25
_MOST_PASSED = 1.0
"""What two looks count for at most: a process that was itself stopped in between has waited for nobody."""
_GRACE_SECONDS = 1.5
"""How long a call may go on once the study is asked to stop."""
_PULSE_SECONDS = 1.0
_LEAST_SECONDS, _CALL_SECONDS, _START_SECONDS, _PIXELS_SECONDS = 10.0, 40.0, 120.0, 300.0
"""Ray ends the process of its driver, without a word, where its GCS is gone for 60 s: we must be first."""
_LAST_PULSE_SECONDS, _CLOSE_SECONDS = 2.0, 30.0

Value = TypeVar("Value")


@dataclass(frozen=True)
class Patience:
    """Seconds after which something hangs: the start, a call that moves pixels, every other call."""

    start: float = _START_SECONDS
    pixels: float = _PIXELS_SECONDS
    call: float = _CALL_SECONDS

    @classmethod
    def of(cls, run: Run) -> Patience:
        """What a spec's `start_seconds` and `call_seconds` come to: no more than they say, nor than makes sense."""
        call = max(run.call_seconds, _LEAST_SECONDS)
        start = max(run.start_seconds, _LEAST_SECONDS)
        return cls(min(start, _START_SECONDS), min(call, _PIXELS_SECONDS), min(call, _CALL_SECONDS))


@runtime_checkable
class Pulsing(Backend, Protocol):
    """A backend in other processes, which may die or stop."""

    asked: str
    """What the present `pulse` waits for, for people."""

    def pulse(self) -> None:
        """Returns once everything that calls depend on has answered. Raises BackendGone where some of it is dead.

        Called by a thread of its own, again and again.
        """


def watched(
    make: Callable[[], Backend], patience: Patience, interrupt: Interrupt, tell: Callable[[StudyError], None]
) -> Backend:
    """The backend that `make` makes, watched where it is `Pulsing`.

    `tell` hears at once why a launch ends; what is raised afterwards says the same. Raises what `make` does,
    BackendGone where it does not return in time, Interrupted where a signal comes first.
    """
    caller = _Caller(interrupt, tell)
    inner = caller.do("start", patience.start, make)
    if not isinstance(inner, Pulsing):
        caller.end()
        return inner
    return _Watched(inner, caller, patience)


class _Watched:
    """Every method of a backend, through one door."""

    def __init__(self, inner: Pulsing, caller: _Caller, patience: Patience) -> None:
        self.name = inner.name
        self._inner = inner
        self._caller = caller
        self._patience = patience
        caller.watch(inner, patience.call)

    def machines(self) -> list[Machine]:
        # Machines that were not seen before are asked about their GPUs.
        return self._caller.do("machines", self._patience.start, self._inner.machines)

    def start(self, role: Role, share: ResourceRequest, kit: WorkerConfig) -> Any:
        return self._caller.do("start of an actor", self._patience.call, self._inner.start, role, share, kit)

    def hello(self, actor: Any) -> Ref:
        return self._caller.do("hello", self._patience.call, self._inner.hello, actor)

    def call(self, actor: Any, method: str, arguments: Sequence[Any], pixels: Ref) -> Call:
        return self._caller.do(method, self._patience.call, self._inner.call, actor, method, arguments, pixels)

    def wait(self, refs: Sequence[Ref], seconds: float) -> list[Ref]:
        return self._caller.do("wait", seconds + self._patience.call, self._inner.wait, refs, seconds)

    def value(self, ref: Ref) -> Any:
        return self._caller.do("value", self._patience.call, self._inner.value, ref)

    def pixels(self, ref: Ref) -> NDArray[np.uint8]:
        return self._caller.do("pixels", self._patience.pixels, self._inner.pixels, ref)

    def put(self, pixels: NDArray[np.uint8]) -> Ref:
        return self._caller.do("put", self._patience.pixels, self._inner.put, pixels)

    def stop(self, actor: Any) -> None:
        self._caller.do("stop", self._patience.call, self._inner.stop, actor)

    def set_aside(self, device: Device, actors: Sequence[Any]) -> None:
        self._caller.do("set aside", self._patience.call, self._inner.set_aside, device, actors)

    def close(self) -> None:
        """Never raises: how a study ended does not depend on how Ray does. What hangs is left to the reaper."""
        self._caller.close(self._inner.close)


class _Caller:
    """A thread that makes calls, one at a time, and the main thread's wait for each."""

    def __init__(self, interrupt: Interrupt, tell: Callable[[StudyError], None]) -> None:
        self._interrupt = interrupt
        self._tell = tell
        self._asks: queue.SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._broken: BackendGone | Interrupted | None = None
        self._inner: Pulsing | None = None
        self._silence_allowed = 0.0
        self._pulses = self._seen = 0
        self._dead: BackendGone | None = None
        self._silent = 0.0
        self._looked = time.monotonic()
        self._over = threading.Event()
        threading.Thread(target=self._make_calls, name="ray", daemon=True).start()

    def watch(self, inner: Pulsing, seconds: float) -> None:
        """Ask `inner` for its pulse from now on: `seconds` without one are too many."""
        self._inner, self._silence_allowed = inner, seconds
        threading.Thread(target=self._feel, args=(inner,), name="pulse", daemon=True).start()

    def do(self, what: str, seconds: float, work: Callable[..., Value], *given: Any) -> Value:
        """What `work(*given)` returns or raises. BackendGone after `seconds`, Interrupted soon after a signal."""
        return self._do(what, seconds, work, *given, grace=_GRACE_SECONDS)

    def _do(
        self, what: str, seconds: float, work: Callable[..., Value], *given: Any, grace: float | None = None
    ) -> Value:
        """`grace`: seconds until a signal counts for more than the call."""
        if self._broken is not None:
            raise self._broken
        with self._interrupt.patient():
            self._look()
            self._asks.put((work, given))
            value, error = self._answer(what, seconds, math.inf if grace is None else grace)
        if error is not None:
            raise error
        return value  # type: ignore[no-any-return]

    def close(self, work: Callable[[], None]) -> None:
        """The last call, which is left out where something hangs or is dead: it would hang too."""
        self._over.set()
        inner, self._inner = self._inner, None
        self._tell = _nobody
        if self._broken is None:
            with contextlib.suppress(BackendGone):
                if inner is not None:
                    self._do("pulse", _LAST_PULSE_SECONDS, inner.pulse)
                self._do("close", _CLOSE_SECONDS, work)
        self.end()

    def end(self) -> None:
        """No call comes after this."""
        self._asks.put(None)

    def _answer(self, what: str, seconds: float, grace: float) -> tuple[Any, BaseException | None]:
        waited = asked = 0.0
        while True:
            began = time.monotonic()
            try:
                return self._answers.get(timeout=_TICK_SECONDS)
            except queue.Empty:
                passed = min(time.monotonic() - began, _MOST_PASSED)
            waited += passed
            asked += passed if self._interrupt.status is not None else 0.0
            if asked >= grace:
                raise self._give_up(Interrupted())
            self._look()
            if waited >= seconds:
                raise self._give_up(_hangs(f"'{what}' has not returned for {seconds:g} s"))

    def _look(self) -> None:
        """Raises BackendGone where Ray is dead, or has been silent for too long."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, _MOST_PASSED), now
        if self._inner is None:
            return
        if self._dead is not None:
            raise self._give_up(self._dead)
        self._silent = 0.0 if self._seen != self._pulses else self._silent + passed
        self._seen = self._pulses
        if self._silent >= self._silence_allowed:
            raise self._give_up(_hangs(f"{self._inner.asked} has not answered for {self._silence_allowed:g} s"))

    def _give_up(self, why: BackendGone | Interrupted) -> BackendGone | Interrupted:
        """From now on nothing is asked of Ray: its code would hang, or end this process without a word."""
        self._broken = why
        hurry()
        if isinstance(why, BackendGone):
            self._tell(why)
        return why

    def _make_calls(self) -> None:
        while (ask := self._asks.get()) is not None:
            work, given = ask
            answer: tuple[Any, BaseException | None]
            try:
                answer = (work(*given), None)
            except BaseException as error:  # noqa: BLE001 - raised where it was asked
                answer = (None, error)
            self._answers.put(answer)
            # What lies in Ray's store stays there as long as anything refers to it.
            del ask, work, given, answer

    def _feel(self, inner: Pulsing) -> None:
        while not self._over.wait(_PULSE_SECONDS):
            try:
                inner.pulse()
            except BackendGone as error:
                self._dead = error
                return
            except Exception as error:  # noqa: BLE001 - not an answer: silence, which is counted
                inner.asked = f"{inner.asked} ({first_line(error)})"
                continue
            self._pulses += 1


def _nobody(_: StudyError) -> None: ...


def _hangs(what: str) -> BackendGone:
    return BackendGone(
        f"Ray hangs: {what}",
        todo="see whether its machine is overloaded, out of memory or cut off, then launch again: "
        "what was published is kept",
    )
