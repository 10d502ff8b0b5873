"""However a launch ends, W&B's end and the backend's close run at the same time."""

from __future__ import annotations

import contextlib
import io
import signal
import threading

import pytest
from rich.console import Console

import actors.launch.launch
from actors.backends.in_process import InProcess
from actors.launch.launch import launch
from actors.launch.options import LaunchOptions
from actors.launch.tracking_session import TrackingSession
from study.errors import StudyError

SMALL = {
    "images": {"sample": "foolbox", "size": 32, "keep": "all", "count": 1},
    "models": {"a": {"network": "timm:test_resnet", "weights": "random:1", "size": 32}},
    "attacks": {},
    "experiments": {"one": {"attacks": ["fgsm"], "sources": ["a"]}},
    "numerics": {"batch": 1, "threads": 1},
    "run": {"actors": 1},
}


class _Backend(InProcess):
    """Its close waits for another thread; `event` happens at the first answer."""

    def __init__(self, meeting, event):
        super().__init__()
        self._meeting, self._event = meeting, event

    def value(self, ref):
        self._event()
        return super().value(ref)

    def close(self):
        self._meeting.wait()
        super().close()


class _Session(TrackingSession):
    """Its end waits for another thread."""

    @contextlib.contextmanager
    def ending(self):
        try:
            yield
        finally:
            self.meeting.wait()


def _fail():
    raise StudyError("the disk is full", status=1)


@pytest.mark.parametrize(
    ("event", "expected"),
    [(lambda: None, 0), (lambda: signal.raise_signal(signal.SIGINT), 130), (_fail, None)],
    ids=["complete", "interrupted", "error"],
)
def test_both_end_at_once(spec_file, tmp_path, monkeypatch, event, expected):
    meeting = threading.Barrier(2, timeout=20)

    @contextlib.contextmanager
    def tracked(options, spec, folder, display):
        _Session.meeting = meeting
        yield _Session(display, None)

    monkeypatch.setattr(actors.launch.launch, "tracked", tracked)
    options, console = LaunchOptions(spec_file(SMALL), tmp_path / "run"), Console(file=io.StringIO(), width=120)
    with pytest.raises(StudyError) if expected is None else contextlib.nullcontext():
        assert launch(options, console, lambda: _Backend(meeting, event)) == expected
    assert not meeting.broken
