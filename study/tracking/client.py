"""The driver's side of tracking: passes events to the tracking process, and waits for it only at the very end."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from study import __version__
from study.errors import StudyError
from study.events.observer import Ended, Observer, Started, State, UnitDone
from study.events.repairs import repaired
from study.events.run_state import RunState
from study.process import children
from study.results.schema import UnitResult, table
from study.spec.schema import Spec
from study.storage.run_folder import RunFolder
from study.storage.s3_path import S3Path
from study.tracking.child import TrackingProcess
from study.tracking.history import COLUMNS, Outline
from study.tracking.live import live_row
from study.tracking.messages import Begin, End, LiveMetrics, RowsWritten, UnitRows
from study.tracking.run_files import Logged, logged_path, run_id
from study.tracking.settings import Mode, project
from study.tracking.tracker import RunInfo
from study.tracking.wandb_tracker import upload_command

END_SECONDS = 20.0
"""The longest time in seconds that the end of tracking may take."""

_READY_SECONDS = 8.0
"""The longest time in seconds, within `END_SECONDS`, to wait for an online run that has not begun when the study ends.
The time is doubled if the launch had no units to do, because W&B then had little time to begin."""

_LIVE_SECONDS, _LIVE_SHARE = 5.0, 0.01
"""The time between two rows on the state of the launch: at least 5 s, and at least 1 % of the launch so far."""

_MOST_TOGETHER = 100
"""The largest number of units whose rows are sent together. Rows are also sent about once a second."""

_PACKAGES = ("torch", "torchvision", "timm", "ray", "polars", "pyarrow", "numpy", "wandb")


@dataclass(frozen=True)
class TrackingOptions:
    """The options of tracking.

    `environment`: the environment variables of the driver. `relaunch`: the command line that launches the study again,
    with online tracking.
    """

    mode: Mode
    spec: Spec
    environment: Mapping[str, str]
    relaunch: str


class TrackingClient(Observer):
    """An observer that passes the events of a launch to the tracking process, which logs them to W&B.

    If the tracking process dies, or an online run cannot begin, a second process continues offline. This happens at
    most once in a launch. The second process reads the result rows in the run folder, so that no data is lost.
    """

    def __init__(
        self,
        options: TrackingOptions,
        folder: RunFolder,
        state: RunState,
        say: Callable[[str], None],
        end_seconds: float = END_SECONDS,
    ) -> None:
        """`state` receives each event before this observer. `say` prints a line for the user."""
        self._options = options
        self._folder = folder
        self._state = state
        self._say = say
        self._end_seconds = end_seconds
        self._log = folder.tracking / "wandb.log"
        self._begin: Begin | None = None
        self._restarted = self._over = self._written = False
        self._live_at = time.monotonic()
        self._process: TrackingProcess | None = None
        self._finished: list[UnitResult] = []
        with contextlib.suppress(OSError):
            # The process imports W&B while the backend starts. If the process cannot start, `started` tries again.
            self._process = self._new_process()

    def started(self, event: Started) -> None:
        spec, plan = self._options.spec, event.plan
        try:
            run = run_id(self._folder, plan)
        except StudyError as error:
            self._say(f"W&B: this launch is not tracked: {error.what}; {error.todo}")
            return
        info = RunInfo(
            id=run,
            name=spec.study,
            project=project(spec.tracking, self._options.environment),
            entity=spec.tracking.entity,
            group=spec.tracking.group,
            tags=spec.tracking.tags,
            config=_config(event),
            folder=self._folder.tracking,
            online=self._options.mode == "online",
        )
        replay = any(event.finished.values())
        self._begin = Begin(info, event.folder, Outline.of(plan), replay=replay, left=event.left)
        self._start()

    def finished(self, event: UnitDone) -> None:
        if self._process is not None:
            self._finished.append(event.result)
            if len(self._finished) >= _MOST_TOGETHER:
                self._send_rows()

    def _send_rows(self) -> None:
        """Send the rows of the units that have finished since the last call, all in one message."""
        finished, self._finished = self._finished, []
        if finished and self._process is not None:
            self._process.send(UnitRows(table(finished).select(COLUMNS)))

    def state(self, event: State) -> None:
        if self._begin is None:
            return  # During the clean pass, there is no W&B run yet.
        self._send_rows()
        self._print_lines()
        if self._process is not None and not self._process.alive:
            self._restart()
        if time.monotonic() - self._live_at >= max(_LIVE_SECONDS, _LIVE_SHARE * self._state.elapsed):
            self._live_at = time.monotonic()
            if self._process is not None:
                self._process.send(LiveMetrics(live_row(self._state)))

    def written(self) -> None:
        if self._begin is not None and self._process is not None:
            self._send_written(self._process)

    def ended(self, event: Ended) -> None:
        self._end(event.status)

    def close(self) -> None:
        """End the W&B run as failed, if it has not ended yet."""
        self._end(1)

    def kill(self) -> None:
        """End the tracking process at once. The next launch logs the missing rows."""
        self._over = True
        if self._process is not None:
            self._process.kill()
        self._process = None

    def _new_process(self) -> TrackingProcess:
        self._folder.tracking.mkdir(parents=True, exist_ok=True)
        in_store = isinstance(self._folder.path, S3Path)
        kind = children.TRACKER_OF_STORE if in_store else children.TRACKER
        given = children.environment(kind, self._options.environment, self._options.spec.credentials)
        return TrackingProcess(self._log, kind, given)

    def _start(self) -> None:
        assert self._begin is not None, "`started` has set the first message"
        self._process = self._process or self._new_process()
        self._process.send(self._begin)
        self._written = False

    def _restart(self) -> None:
        """Replace the tracking process by a new process, which continues offline.

        At the second call, tracking ends, and a message says so.
        """
        assert self._process is not None, "there is a process to replace"
        assert self._begin is not None, "`started` has set the first message"
        self._print_lines()
        self._process.kill()
        self._process = None
        if self._restarted:
            self._say(f"W&B: this launch is no longer tracked; see {self._log}")
            return
        self._restarted = True
        online = self._begin.run.online
        how = "failed, so the study is tracked offline from now on" if online else "is started once more"
        repaired("tracking", f"W&B {how} (details in {self._log})")
        self._begin = replace(self._begin, run=replace(self._begin.run, online=False), replay=True)
        self._start()

    def _print_lines(self) -> None:
        for line in self._process.lines() if self._process is not None else ():
            self._say(f"W&B: {line}")

    def _end(self, status: int) -> None:
        if self._over:
            return
        if self._begin is None:
            self.kill()
            return
        deadline = time.monotonic() + self._end_seconds
        ready_seconds = _READY_SECONDS * (1 if self._begin.left else 2)
        if self._begin.run.online and self._process is not None and not self._process.wait_ready(ready_seconds):
            self._restart()
        code = self._finish(status, deadline)
        if code and not self._begin.run.online and not self._restarted:
            self._restart()
            code = self._finish(status, deadline)
        self._print_lines()
        self.kill()
        if code != 0:
            self._say(f"W&B: some data is not logged (details in {self._log}); the next launch adds it")
        self._say_how_to_upload(self._begin.run.id)

    def _finish(self, status: int, deadline: float) -> int | None:
        """Ask the tracking process to end the run. Returns the exit status of the process.

        Returns None if there is no process, or if it does not end before `deadline`, a time of `time.monotonic`.
        """
        if self._process is None:
            return None
        if not self._written:
            self._send_written(self._process)
        self._process.send(End(status))
        return self._process.wait(deadline - time.monotonic())

    def _send_written(self, process: TrackingProcess) -> None:
        self._send_rows()
        process.hurry()
        process.send(RowsWritten(live_row(self._state), replay=process.dropped or self._restarted))
        self._written = True

    def _say_how_to_upload(self, run: str) -> None:
        try:
            logged = Logged.read(logged_path(self._folder.tracking, run))
        except StudyError as error:
            self._say(f"W&B: {error}")
            return
        upload = upload_command([Path(folder) for folder in logged.offline])
        if logged.unsent:
            # The message does not suggest `wandb sync`, because it would send all data again.
            self._say(f"W&B: the server may lack some data; this command sends it: {self._options.relaunch}")
        elif upload is not None:
            self._say(f"W&B: upload the run with: {upload}")


def _config(event: Started) -> dict[str, Any]:
    """Return the config of the W&B run: spec, models, package versions, size of the plan, and where the launch runs."""
    versions = {"python": sys.version.split()[0], "study": __version__}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    plan = event.plan
    return {
        "spec": plan.spec.model_dump(mode="json"),
        "models": {name: dict(model) for name, model in event.models.items()},
        "versions": versions,
        "plan": {
            "crafts": len(plan.crafts),
            "shards": len(plan.shards),
            "images": sum(len(shard.images) for shard in plan.shards),
        },
        "launch": {
            "folder": event.folder,
            "backend": event.backend,
            "workers": event.workers,
            "device": event.device,
        },
    }
