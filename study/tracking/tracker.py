"""The watcher that carries a study to W&B: it hands on what it is told, and waits for nothing until the very end."""

from __future__ import annotations

import contextlib
import re
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from study.errors import StudyError
from study.events.observer import Ended, Observer, Started, State, UnitDone, UnitFailed
from study.events.repairs import repaired
from study.process import children
from study.reproducibility.hashing import digest
from study.spec.schema import Spec
from study.storage import json_file
from study.storage.run_folder import RunFolder
from study.storage.s3_path import S3Path
from study.tracking import logs
from study.tracking.outline import Outline
from study.tracking.settings import Mode, project
from study.tracking.tallies import COLUMNS
from study.tracking.worker import Worker

END_SECONDS = 20.0
"""What the end may take, all in all."""

_READY_SECONDS = 5.0
"""Of these, what an online run may take that has not even begun when the study is over."""

_PACKAGES = ("study", "torch", "torchvision", "timm", "ray", "polars", "pyarrow", "numpy", "wandb")


@dataclass(frozen=True)
class TrackingOptions:
    """How a launch is to be tracked, in the end, and by which environment."""

    mode: Mode
    spec: Spec
    environment: Mapping[str, str]
    online: str
    """The command that launches the study again, online."""


class Tracker(Observer):
    """One W&B run for one study, the same in every launch. `close` ends it where `ended` was not called."""

    def __init__(
        self, wish: TrackingOptions, folder: RunFolder, say: Callable[[str], None], end_seconds: float = END_SECONDS
    ) -> None:
        """`say` takes the lines that people are to read; it is called from the driver's thread alone."""
        self._wish = wish
        self._folder = folder
        self._say = say
        self._end_seconds = end_seconds
        self._worker: Worker | None = None
        self._begin: dict[str, Any] = {}
        self._second = False
        self._over = False
        self._online = wish.mode == "online"
        with contextlib.suppress(OSError):
            # It loads what it needs while the backend starts; where it cannot be started, `started` says so.
            self._worker = self._process()

    def started(self, event: Started) -> None:
        outline = Outline.of(event.plan)
        tracking = self._wish.spec.tracking
        try:
            run = run_id(self._folder, self._wish.spec.study, outline)
        except StudyError as error:
            self._say(f"W&B: this launch is not tracked: {error.what}; {error.todo}")
            return
        self._begin = {
            "mode": self._wish.mode,
            "id": run,
            "name": self._wish.spec.study,
            "project": project(tracking, self._wish.environment),
            "entity": tracking.entity,
            "group": tracking.group,
            "tags": list(tracking.tags),
            "run": event.folder,
            "folder": str(self._folder.tracking),
            "config": _config(event),
            "outline": outline.data(),
            "replay": any(event.finished.values()),
            "left": event.left,
        }
        self._start()

    def finished(self, event: UnitDone) -> None:
        if self._worker is not None:
            images = len(event.unit.shard.images)
            self._worker.rows(event.rows.select(COLUMNS), {"images": images, "gradients": event.gradients})

    def failed(self, event: UnitFailed) -> None:
        self._send("failed", {"unit": event.unit.id})

    def state(self, event: State) -> None:
        self._look()
        self._send("state", asdict(event))

    def ended(self, event: Ended) -> None:
        self._end(event.status)

    def close(self) -> None:
        """The launch is over without having said so: W&B is told that it failed. Harmless once it has ended."""
        self._end(1)

    def _start(self) -> None:
        self._worker = self._worker or self._process()
        self._worker.send("begin", self._begin)

    def _process(self) -> Worker:
        self._folder.tracking.mkdir(parents=True, exist_ok=True)
        in_store = isinstance(self._folder.path, S3Path)
        kind = children.TRACKER_OF_STORE if in_store else children.TRACKER
        given = children.environment(kind, self._wish.environment, self._wish.spec.credentials)
        return Worker(self._folder.tracking / "wandb.log", kind, given)

    def _send(self, kind: str, data: Any) -> None:
        if self._worker is not None:
            self._worker.send(kind, data)

    def _look(self) -> None:
        """Say what the process had to say, and start another where it has died."""
        self._hear()
        if self._worker is not None and not self._worker.alive:
            self._again()

    def _hear(self) -> None:
        for kind, data in self._worker.heard() if self._worker is not None else ():
            if kind == "trouble":
                self._say(f"W&B: {data}")
            elif kind == "ready" and self._online:
                self._say(f"W&B: {data['url']}")

    def _again(self) -> None:
        """Once, and without the network: from the Parquet parts it can do all that the first one did."""
        assert self._worker is not None, "there is a process that has died"
        self._worker.kill()
        self._worker = None
        if self._second:
            self._say(f"W&B: given up for this launch ({self._log} says more)")
            return
        self._second = True
        how = "was not reached, so the study is tracked offline from now on" if self._online else "is begun once more"
        self._online = False
        repaired("tracking", f"W&B {how} ({self._log} says more)")
        self._begin |= {"mode": "offline", "replay": True}
        self._start()

    @property
    def _log(self) -> Path:
        return self._folder.tracking / "wandb.log"

    def _end(self, status: int) -> None:
        if self._over:
            return
        self._over = True
        if not self._begin:
            if self._worker is not None:
                self._worker.kill()
            return
        deadline = time.monotonic() + self._end_seconds
        if self._worker is not None and self._online:
            self._worker.wait_ready(_READY_SECONDS)
            if not self._worker.ready:
                self._again()
        left: int | None = None
        while self._worker is not None:
            worker = self._worker
            worker.send("end", {"status": status})
            worker.hurry()
            left = worker.wait(deadline - time.monotonic())
            if left in {0, None} or self._online or self._second:
                break
            self._look()
        self._hear()
        if self._worker is not None:
            self._worker.kill()
        self._worker = None
        if left != 0:
            self._say(f"W&B: not all of it is logged ({self._log} says more); the next launch adds what is missing")
        self._how_to_sync()

    def _how_to_sync(self) -> None:
        """Say how what the server does not have gets there, if there is any.

        Of a run that was online nobody here knows how much the server took, and `wandb sync` would send all of it once
        more: a launch asks the server, and sends the rest.
        """
        there = logs.logged(self._folder.tracking, self._begin["id"])
        folders = logs.to_sync(there)
        if any(one.online and one.folder in folders for one in there):
            self._say(f"W&B: the server may not have all of it; this sends what it lacks: {self._wish.online}")
        elif folders:
            self._say(f"W&B: upload it with: {shlex.join(['wandb', 'sync', *map(str, folders)])}")


@dataclass(frozen=True)
class _Tracked:
    """What tracked.json holds: the id of the study's first W&B run, and a digest of every plan that has had one."""

    id: str = ""
    plans: list[str] = field(default_factory=list)


def run_id(folder: RunFolder, study: str, outline: Outline) -> str:
    """The id of the study's W&B run: its name and something random, which its folder keeps for every launch.

    A study that was extended has another plan, and with it another history: a run of its own, `…-2`.
    """
    try:
        known = json_file.read(folder.tracked, _Tracked, todo="remove it: the next launch begins another W&B run")
    except FileNotFoundError:
        known = _Tracked()
    plans = list(known.plans)
    base = known.id or f"{re.sub(r'[^A-Za-z0-9_-]', '-', study)[:80]}-{secrets.token_hex(4)}"
    plan = digest(outline.data())
    if plan not in plans:
        plans.append(plan)
        folder.write_json(folder.tracked, {"id": base, "plans": plans})
    number = plans.index(plan) + 1
    return base if number == 1 else f"{base}-{number}"


def _config(event: Started) -> dict[str, Any]:
    spec = event.plan.spec
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "spec": spec.model_dump(mode="json"),
        "models": {name: dict(model) for name, model in event.models.items()},
        "versions": {**versions, "python": sys.version.split()[0]},
        "plan": {
            "crafts": len(event.plan.crafts),
            "shards": len(event.plan.shards),
            "images": sum(len(shard.images) for shard in event.plan.shards),
        },
        "launch": {
            "folder": event.folder,
            "backend": event.backend,
            "workers": event.workers,
            "device": event.device,
        },
    }
