"""Every call into Ray has a time limit: the error names the call that hangs, and signals are answered meanwhile."""

from __future__ import annotations

import inspect
import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from actors.backends.bounded_calls import CallTimeouts, bounded
from actors.backends.in_process import InProcess
from actors.backends.interface import Backend, BackendGone, Call, CallFailed, CallRequest
from study.errors import StudyError
from study.process.interrupt import Interrupt, Interrupted
from study.spec.run_options import RunOptions

METHODS = sorted(
    name
    for name, _ in inspect.getmembers(Backend, inspect.isfunction)
    if not name.startswith("_") and name != "activity"
)
"""All that may hang: `activity` reads what the heartbeat has brought."""
SHORT = CallTimeouts(start=0.4, pixels=0.4, call=0.4, machines=0.4)
GIVEN = {
    "machines": (),
    "start": ("worker", None, None),
    "hello": (None,),
    "call": (None, "craft", (), None),
    "bundle": (None, [CallRequest("predict", (), None), CallRequest("craft", (), None)]),
    "wait": (["ref"], 0.1),
    "value": (None,),
    "pixels": (None,),
    "put": (None,),
    "stop": (None,),
    "set_aside": (None, ()),
    "scaling": (),
    "request": (1, None),
    "close": (),
}


CALLED = {
    "call": "craft",
    "bundle": "predict + craft",
    "start": "start of an actor",
    "set_aside": "set aside",
    "scaling": "state of the autoscaler",
    "request": "request to the autoscaler",
}
"""The names of methods in messages, where they are others."""


class Blocking:
    """A backend whose method `hangs` never returns; the others say at once who called them."""

    name = "blocking"
    fixed = False
    awaited = "the GCS"

    def __init__(self, hangs: str = "", dead: str | None = None) -> None:
        self.hangs = hangs
        self.dead = dead
        self.died: str | None = None
        self.asked: list[str] = []
        self.let_go = threading.Event()

    def __getattr__(self, method):
        if method not in METHODS:
            raise AttributeError(method)
        return lambda *given: self._said(method)

    def _said(self, method):
        self.asked.append(method)
        if method == self.hangs:
            self.let_go.wait()
        bundle = [Call("first", None), Call("second", "pixels")]
        return {"call": Call("value", "pixels"), "bundle": bundle, "wait": []}.get(method, method)

    def activity(self, actor):
        return f"step {actor}"

    def check(self):
        if self.died:
            raise BackendGone(self.died)

    def heartbeat(self):
        if self.hangs == "heartbeat":
            self.let_go.wait()
        if self.dead:
            raise BackendGone(self.dead)


def asked(backend, method):
    getattr(backend, method)(*GIVEN[method])
    # The start of a task is not waited for.
    backend.wait([], 0.0)


def until_gone(backend, times):
    for _ in range(times):
        backend.wait([], 0.05)
        time.sleep(0.01)


@pytest.fixture
def blocking(monkeypatch):
    """Makes watched backends, with what was told, and lets their threads go afterwards."""
    monkeypatch.setattr("actors.backends.bounded_calls._HEARTBEAT_SECONDS", 0.05)
    made = []

    def make(interrupt, patience=SHORT, **how):
        inner, told = Blocking(**how), []
        made.append(inner)
        return bounded(lambda: inner, patience, interrupt, told.append), told

    yield make
    for inner in made:
        inner.let_go.set()


def test_a_dead_backend_is_asked_for_nothing(monkeypatch):
    """Whether or not a heartbeat has seen it: Ray would end this process in the call, without a message."""
    monkeypatch.setattr("actors.backends.bounded_calls._HEARTBEAT_SECONDS", 60.0)
    inner, told = Blocking(), []
    with Interrupt() as interrupt:
        backend = bounded(lambda: inner, SHORT, interrupt, told.append)
        backend.wait([], 0.05)
        inner.died = "Ray is gone"
        for _ in range(2):
            with pytest.raises(BackendGone, match="Ray is gone"):
                backend.wait([], 0.05)
        assert inner.asked == ["wait"]
        assert [str(one) for one in told] == ["Ray is gone"]
        backend.close()
        assert inner.asked == ["wait"]


def test_the_table_knows_every_method():
    assert set(GIVEN) == set(METHODS)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "close"])
def test_no_method_waits_for_ever(blocking, method):
    with Interrupt() as interrupt:
        backend, told = blocking(interrupt, hangs=method)
        began = time.monotonic()
        with pytest.raises(BackendGone, match=r"Ray hangs: .* has not returned for 0\.[45] s") as caught:
            asked(backend, method)
        assert f"'{CALLED.get(method, method)}' has not returned" in str(caught.value)
        assert time.monotonic() - began < 5
        assert caught.value.status == 1
        assert told == [caught.value]
        # What hangs is asked for nothing more, not even to close.
        began = time.monotonic()
        with pytest.raises(BackendGone):
            backend.machines()
        backend.close()
        assert time.monotonic() - began < 1
        assert interrupt.hurried


def test_a_close_that_hangs_ends_and_tells_nothing(blocking, monkeypatch):
    monkeypatch.setattr("actors.backends.bounded_calls._CLOSE_SECONDS", 0.5)
    with Interrupt() as interrupt:
        backend, told = blocking(interrupt, hangs="close")
        backend.close()
        assert told == []
        assert interrupt.hurried


@pytest.mark.parametrize("method", METHODS)
def test_a_quick_method_goes_through(blocking, method):
    with Interrupt() as interrupt:
        backend, _ = blocking(interrupt)
        answer = getattr(backend, method)(*GIVEN[method])
        if method in ("call", "bundle"):
            backend.wait([], 0.0)
            assert backend._inner.asked == [method, "wait"]
        else:
            assert answer == {"stop": None, "set_aside": None, "close": None, "request": None, "wait": []}.get(
                method, method
            )
        assert not interrupt.hurried


def test_what_actors_are_at_is_known_while_another_call_waits(blocking):
    with Interrupt() as interrupt:
        backend, _ = blocking(interrupt)
        assert backend.activity(7) == "step 7"
        assert backend._inner.asked == []


class Answering(Blocking):
    """Tasks whose values are ready at once; some raise an error."""

    def __init__(self, errors=None):
        super().__init__()
        self.errors, self.given = errors or {}, []

    def call(self, actor, method, arguments, pixels):
        self._said("call")
        self.given.append(pixels)
        if method in self.errors:
            raise self.errors[method]
        return Call(f"value {len(self.given)}", f"pixels {len(self.given)}" if method == "craft" else None)

    def wait(self, refs, seconds):
        return [ref for ref in refs if ref != "never"]

    def value(self, ref):
        self._said("value")
        if ref in self.errors:
            raise self.errors[ref]
        return f"the {ref}"


def test_a_step_of_the_driver_waits_for_the_other_thread_once():
    """Two tasks are started and their values are fetched in one go; what one raises is raised where it is read."""
    inner = Answering({"value 2": CallFailed("no luck")})
    with Interrupt() as interrupt:
        backend = bounded(lambda: inner, SHORT, interrupt, lambda error: None)
        waits, put = [], backend._caller._answers.get
        backend._caller._answers = SimpleNamespace(
            put=backend._caller._answers.put, get=lambda timeout: waits.append(timeout) or put(timeout=timeout)
        )
        first = backend.call(None, "craft", (), "clean")
        second = backend.call(None, "predict", (), first.pixels)
        ready = backend.wait([first.value, second.value, "never"], 0.0)
        assert ready == [first.value, second.value]
        assert backend.value(first.value) == "the value 1"
        with pytest.raises(CallFailed, match="no luck"):
            backend.value(second.value)
        assert len(waits) == 1
        assert inner.given == ["clean", "pixels 1"], "the thread knows the reference by then"
        assert inner.asked == ["call", "call", "value", "value"]
        backend.close()


def test_the_calls_of_a_bundle_are_started_in_one_go():
    """The images that a call has crafted can be the images of a call in a bundle."""
    inner, given = Answering(), []

    def bundle(actor, requests):
        given.extend(requests)
        return [inner.call(actor, *request) for request in requests]

    inner.bundle = bundle
    with Interrupt() as interrupt:
        backend = bounded(lambda: inner, SHORT, interrupt, lambda error: None)
        first = backend.call(None, "craft", (), "clean")
        calls = backend.bundle(None, [CallRequest("predict", (), first.pixels), CallRequest("craft", (), "clean")])
        assert calls[0].pixels is None
        refs = [call.value for call in calls]
        assert backend.wait(refs, 0.0) == refs
        assert [backend.value(ref) for ref in refs] == ["the value 2", "the value 3"]
        assert given == [CallRequest("predict", (), "pixels 1"), CallRequest("craft", (), "clean")]
        again = backend.call(None, "predict", (), calls[1].pixels)
        assert backend.wait([again.value], 0.0) == [again.value]
        assert inner.given[-1] == "pixels 3"
        backend.close()


def test_values_that_come_slowly_are_fetched_one_by_one(monkeypatch):
    monkeypatch.setattr("actors.backends.bounded_calls._FETCH_SECONDS", -1.0)
    inner = Answering()
    with Interrupt() as interrupt:
        backend = bounded(lambda: inner, SHORT, interrupt, lambda error: None)
        calls = [backend.call(None, "predict", (), None) for _ in range(3)]
        refs = [call.value for call in calls]
        assert backend.wait(refs, 0.0) == refs
        assert inner.asked.count("value") == 1
        assert [backend.value(ref) for ref in refs] == ["the value 1", "the value 2", "the value 3"]
        backend.close()


def test_a_task_that_cannot_be_started_ends_the_study():
    """Nothing more is asked of the backend before that is told, once."""
    inner = Answering({"craft": TypeError("cannot be pickled")})
    with Interrupt() as interrupt:
        backend = bounded(lambda: inner, SHORT, interrupt, lambda error: None)
        backend.call(None, "craft", (), None)
        backend.call(None, "predict", (), None)
        with pytest.raises(TypeError, match="cannot be pickled"):
            backend.wait([], 0.0)
        assert inner.asked == ["call"]
        assert backend.machines() == "machines"
        backend.call(None, "craft", (), None)
        backend.close()
        assert inner.asked[-1] == "close"


def test_a_backend_that_dies_before_a_task_is_started_is_not_asked():
    inner, told = Answering(), []
    with Interrupt() as interrupt:
        backend = bounded(lambda: inner, SHORT, interrupt, told.append)
        backend.machines()
        inner.died = "Ray is gone"
        backend.call(None, "craft", (), None)
        with pytest.raises(BackendGone, match="Ray is gone"):
            backend.wait([], 0.0)
        assert "call" not in inner.asked
        assert [str(one) for one in told] == ["Ray is gone"]
        with pytest.raises(BackendGone):
            backend.call(None, "craft", (), None)


def test_a_long_wait_that_was_asked_for_is_no_hang(blocking):
    with Interrupt() as interrupt:
        backend, _ = blocking(interrupt)
        backend._inner._said = lambda method: time.sleep(0.8) or []
        assert backend.wait([], 0.8) == []


def test_what_is_raised_is_raised(blocking):
    def raises(method):
        raise StudyError(f"{method} is refused")

    with Interrupt() as interrupt:
        backend, _ = blocking(interrupt)
        backend._inner._said = raises
        with pytest.raises(StudyError, match="put is refused"):
            backend.put(None)
        with pytest.raises(StudyError, match="value is refused"):
            backend.value(None)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        pytest.param({"hangs": "heartbeat"}, "Ray hangs: the GCS has not answered for 0.4 s", id="silent"),
        pytest.param({"dead": "Ray is gone: its raylet has died"}, "Ray is gone: its raylet has died", id="dead"),
    ],
)
def test_ray_without_a_pulse(blocking, how, said):
    """Calls are still answered: by what they left in this process."""
    with Interrupt() as interrupt:
        backend, told = blocking(interrupt, **how)
        with pytest.raises(BackendGone) as caught:
            until_gone(backend, 500)
        assert str(caught.value).splitlines()[0] == said
        assert told == [caught.value]


def test_time_in_which_this_process_was_stopped_does_not_count(blocking, monkeypatch):
    """After Ctrl-Z and `fg` an hour later nothing has hung for an hour."""
    clock = [0.0]
    monkeypatch.setattr("actors.backends.bounded_calls.time.monotonic", lambda: clock[0])
    with Interrupt() as interrupt:
        backend, told = blocking(interrupt, CallTimeouts(call=10.0), hangs="heartbeat")
        for _ in range(9):
            clock[0] += 3600.0
            backend.machines()
        clock[0] += 3600.0
        with pytest.raises(BackendGone, match="has not answered for 10 s"):
            backend.machines()
        assert len(told) == 1


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str
)
def test_a_signal_is_answered_while_a_call_hangs(blocking, number, status):
    with Interrupt() as interrupt:
        backend, told = blocking(interrupt, CallTimeouts(), hangs="put")
        threading.Timer(0.3, os.kill, (os.getpid(), number)).start()
        began = time.monotonic()
        with pytest.raises(Interrupted):
            backend.put(None)
        assert time.monotonic() - began < 5
        assert interrupt.status == status
        assert told == []


def test_a_signal_waits_for_a_call_that_returns(blocking):
    with Interrupt() as interrupt:
        backend, _ = blocking(interrupt)
        backend._inner._said = lambda method: os.kill(os.getpid(), signal.SIGTERM) or method
        assert backend.put(None) == "put"
        with pytest.raises(Interrupted):
            interrupt.check()
        backend._inner._said = lambda method: method
        backend.close()
        assert not interrupt.hurried


def test_what_runs_here_is_not_watched():
    with Interrupt() as interrupt:
        inner = InProcess()
        assert bounded(lambda: inner, CallTimeouts(), interrupt, lambda error: None) is inner


@pytest.mark.parametrize(
    ("run", "patience"),
    [
        ({}, CallTimeouts(start=120, pixels=300, call=40)),
        ({"call_seconds": 15, "start_seconds": 60}, CallTimeouts(start=60, pixels=15, call=15)),
        ({"call_seconds": 0.5, "start_seconds": 1}, CallTimeouts(start=10, pixels=10, call=10)),
    ],
    ids=["usual", "short", "too short"],
)
def test_patience_follows_the_spec_within_reason(run, patience):
    assert CallTimeouts.of(RunOptions(**run)) == patience
