"""A small study that is launched here and tracked, and what W&B's own files say of it."""

from __future__ import annotations

import contextlib
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

import actors.launch.launch
from actors.backends.in_process import InProcess
from actors.launch.launch import launch
from actors.launch.options import LaunchOptions
from study.events.observer import Observer, Observers
from study.tracking import logs
from tests.conftest import TINY

SMALL = yaml.safe_load(TINY) | {
    "study": "small",
    "images": {"sample": "foolbox", "size": 48, "keep": "all", "count": 6},
    "models": {
        "b": {"network": "torchvision:squeezenet1_1", "weights": "random:1", "size": 48},
        "c": {"network": "timm:test_resnet", "weights": "random:2", "size": 56},
    },
    "attacks": {
        "mi": {"steps": 2},
        "optimization": {"steps": 2},
        "fgs": {"budget": {"rmsd": "matched", "to": "optimization", "by": "mean"}},
    },
    "experiments": {"single": {"attacks": ["mi", "fgs"], "sources": "each", "goal": ["untargeted", "targeted"]}},
}


class Killed(BaseException):
    """In place of a kill: nothing of the tracker's is ended in order."""


class _Killer(Observer):
    def __init__(self, after: int) -> None:
        self.left = after

    def finished(self, event: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.fixture
def tracked(tmp_path, monkeypatch):
    """Launches the small study into a folder, and returns the status and what was printed.

    `kill` units are finished before it is killed, and its W&B process with it, if `hard`; a process that is left alone
    sees that its driver has gone.
    """
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    spec = tmp_path / "small.yaml"
    spec.write_text(yaml.safe_dump(SMALL))

    def run(folder: Path, mode: str = "offline", *, kill: int = 0, hard: bool = True) -> tuple[int | None, str]:
        printed = io.StringIO()
        with monkeypatch.context() as patched:
            if kill:
                usual = actors.launch.launch.tracked

                @contextlib.contextmanager
                def killed(*arguments):
                    with usual(*arguments) as session:
                        yield replace(session, display=_Eager(session.display, _Killer(kill)))

                patched.setattr(actors.launch.launch, "tracked", killed)
                patched.setattr("study.tracking.tracker.Tracker.close", _gone if hard else _left)
            try:
                order = LaunchOptions(spec, folder, wandb=mode)
                status = launch(order, Console(file=printed, width=300), InProcess)
            except Killed:
                status = None
        return status, printed.getvalue()

    return run


class _Eager(Observers):
    """Unlike others, the second may stop the study."""

    def __init__(self, first: Observer, second: Observer) -> None:
        super().__init__(first, [])
        self._second = second

    def finished(self, event: object) -> None:
        super().finished(event)
        self._second.finished(event)


def _gone(tracker) -> None:
    if tracker._worker is not None:
        tracker._worker.kill()
    tracker._worker, tracker._over = None, True


def _left(tracker) -> None:
    if tracker._worker is not None:
        tracker._worker._process.stdin.close()
        tracker._worker._process.wait(20)
    tracker._worker, tracker._over = None, True


def wandb_id(run: Path) -> str:
    return json.loads((run / "tracked.json").read_text())["id"]


def records(run: Path) -> list:
    """All that W&B has written about a run, launch after launch."""
    return [record for one in logs.logged(run / "tracking", wandb_id(run)) for record in logs.records(one.log)]


def history(run: Path) -> list[dict]:
    rows = []
    for record in records(run):
        if record.HasField("history"):
            row: dict = {}
            for item in record.history.item:
                *path, key = item.nested_key or [item.key]
                inside = row
                for name in path:
                    inside = inside.setdefault(name, {})
                inside[key] = json.loads(item.value_json)
            rows.append(row)
    return rows


def content(rows: list[dict]) -> list[dict]:
    """The rows that depend on nothing but the study."""
    return [
        {key: value for key, value in row.items() if key not in {"_timestamp", "_runtime"}}
        for row in rows
        if "units" in row
    ]
