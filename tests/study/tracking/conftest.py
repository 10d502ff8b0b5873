"""A small study that is launched here and tracked, and a server that receives what `wandb sync` uploads of it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from actors.backends.in_process import InProcess
from actors.launch.launch import launch
from actors.launch.options import LaunchOptions
from study.storage.run_folder import RunFolder
from study.tracking.client import TrackingClient
from study.tracking.run_files import Logged, logged_path
from tests.conftest import TINY
from tests.study.tracking.service import KEY, Service, serving

SMALL = yaml.safe_load(TINY) | {
    "study": "small",
    "images": {"sample": "foolbox", "size": 32, "keep": "all", "count": 4},
    "models": {
        "b": {"network": "timm:test_efficientnet", "weights": "random:1", "size": 32},
        "c": {"network": "timm:test_resnet", "weights": "random:2", "size": 32},
    },
    "attacks": {
        "mi": {"steps": 2},
        "optimization": {"steps": 2},
        "fgs": {"budget": {"rmsd": "matched", "to": "optimization", "by": "mean"}},
    },
    "experiments": {"single": {"attacks": ["mi", "fgs"], "sources": "each", "goal": ["untargeted", "targeted"]}},
}

UNITS = 24
"""Units of the small study."""


class Killed(BaseException):
    """Ends a launch in place of a kill."""


@pytest.fixture
def tracked(tmp_path, monkeypatch):
    return launcher(tmp_path, monkeypatch)


def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Launches the small study into a folder; returns the status and what was printed.

    `kill`: after this number of units the launch and its tracking process are killed.
    """
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    spec = tmp_path / "small.yaml"
    spec.write_text(yaml.safe_dump(SMALL))

    def run(folder: Path, mode: str = "offline", *, kill: int = 0) -> tuple[int | None, str]:
        printed = io.StringIO()
        with monkeypatch.context() as patched:
            if kill:
                patched.setattr(TrackingClient, "finished", _killing(kill))
            try:
                status = launch(LaunchOptions(spec, folder, wandb=mode), Console(file=printed, width=300), InProcess)
            except Killed:
                status = None
        return status, printed.getvalue()

    return run


def _killing(units: int):
    finished, left = TrackingClient.finished, [units]

    def killed(client, event):
        finished(client, event)
        left[0] -= 1
        if not left[0]:
            client.kill()
            raise Killed

    return killed


def wandb_id(run: str | Path) -> str:
    return json.loads(RunFolder(run).tracked.read_text())["id"]


def logged(run: str | Path) -> Logged:
    return Logged.read(logged_path(RunFolder(run).tracking, wandb_id(run)))


@contextlib.contextmanager
def synced(run: str | Path, command: str | None = None) -> Iterator[Service]:
    """The server after `command`, which a launch has printed, or after `wandb sync` of all offline folders of `run`."""
    words = shlex.split(command) if command else ["wandb", "sync", *logged(run).offline]
    words[:1] = [sys.executable, "-m", "wandb"]
    with serving() as (service, address):
        environment = {**os.environ, "WANDB_BASE_URL": address, "WANDB_API_KEY": KEY, "WANDB_ERROR_REPORTING": "0"}
        # W&B writes logs into the working folder.
        here = RunFolder(run).tracking
        subprocess.run(words, env=environment, cwd=here, check=True, capture_output=True, timeout=120)
        yield service


def content(rows: list[dict]) -> list[dict]:
    """The rows of history, without time."""
    return [
        {key: value for key, value in row.items() if key not in {"_timestamp", "_runtime"}}
        for row in rows
        if "units" in row
    ]


def last_values(rows: list[dict]) -> dict:
    """The last value of each metric of the history."""
    found: dict = {}
    for row in content(rows):
        found |= row
    return found
