"""Signals as a request to stop: patient code ends in order, impatient code at once, and a second signal never waits."""

from __future__ import annotations

import contextlib
import signal
import threading

import pytest

from study.process import interrupt as module
from study.process.interrupt import Interrupt, Interrupted


def test_impatient_work_inside_patient_code():
    with Interrupt() as interrupt, interrupt.patient():
        with pytest.raises(Interrupted), interrupt.impatient():
            signal.raise_signal(signal.SIGINT)
        assert interrupt.status == 130
        with pytest.raises(Interrupted), interrupt.impatient():
            raise AssertionError("no work begins after a signal")


def test_patience_returns_after_impatient_work(monkeypatch):
    monkeypatch.setattr(module, "end_process", lambda *_, **__: pytest.fail("the process would end"))
    with Interrupt() as interrupt, interrupt.patient():
        with interrupt.impatient():
            pass
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.status == 143


@pytest.mark.parametrize("inner", [False, True])
def test_the_second_signal_ends_no_process_of_others(monkeypatch, inner):
    monkeypatch.setattr(module, "end_process", lambda *_, **__: pytest.fail("the process would end"))
    outer = Interrupt(ends_process=False)
    with outer, Interrupt() if inner else contextlib.nullcontext(outer) as used, used.patient():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)


def test_the_second_signal_ends_our_process(monkeypatch):
    ended = []
    monkeypatch.setattr(module, "end_process", lambda status, **_: ended.append(status))
    with Interrupt() as interrupt, interrupt.patient():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert ended == [130]


def test_another_thread_can_launch_too():
    before, seen = signal.getsignal(signal.SIGINT), []

    def enter():
        with Interrupt() as interrupt:
            interrupt.check()
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]
