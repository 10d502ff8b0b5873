"""The process that W&B runs in, beside the driver: what it does, or does not get done, stops no study.

It reads messages from its standard input until `end`, or until nobody is there to write any, and counts rows: those
that it is sent, and those in the run's Parquet parts. W&B's own output goes where standard error goes.
"""

from __future__ import annotations

import io
import os
import select
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from study.errors import StudyError
from study.tracking import frames, logs, server
from study.tracking.ledger import Ledger
from study.tracking.numbers import Speed
from study.tracking.outline import STRIDE, Outline
from study.tracking.page import Aside, Page, one_line
from study.tracking.tallies import Tallies

_INIT_SECONDS, _FINISH_SECONDS, _TEARDOWN_SECONDS = 60.0, 8.0, 4.0
_MOST_INBOX = 64 * 2**20
_PULSE = 0.5
_ended = threading.Event()


class Inbox:
    """What the driver has sent, read by a thread: rows as they are, until somebody counts them."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self._rows: list[bytes] = []
        self._bytes = 0
        self.speed = Speed()
        self.state: dict[str, Any] = {}
        self.failures = 0
        self.missed = False
        self.status: int | None = None
        self.over = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while (frame := frames.read(self._pipe)) is not None:
            if frame.kind == "rows":
                self.speed.add(frame.data["images"], frame.data["gradients"])
                with self._lock:
                    # What is too much to hold is in the Parquet parts, or will be.
                    self.missed = self.missed or self._bytes > _MOST_INBOX
                    if not self.missed:
                        self._rows.append(frame.content)
                        self._bytes += len(frame.content)
            elif frame.kind == "state":
                self.state = frame.data
            elif frame.kind == "failed":
                self.failures += 1
            elif frame.kind == "missed":
                self.missed = True
            elif frame.kind == "end":
                self.status = frame.data["status"]
                break
        self.over.set()

    def take(self) -> list[bytes]:
        """The rows that have come since, each unit's in the format of an Arrow stream."""
        with self._lock:
            rows, self._rows, self._bytes = self._rows, [], 0
        return rows


@dataclass(frozen=True)
class Begin:
    """What the first message says."""

    mode: str
    id: str
    name: str
    project: str
    entity: str | None
    group: str | None
    tags: tuple[str, ...]
    run: str
    """The run folder, or its address."""
    folder: str
    """Where W&B's files go."""
    config: dict[str, Any]
    outline: dict[str, Any]
    replay: bool
    """Whether there are Parquet parts to begin with."""
    left: int
    """Units that this launch has to do."""


def main() -> None:
    """Track one launch. Exit status 0 where all is written, and uploaded if it was to be."""
    parent = os.getppid()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    prepare(lambda: bool(select.select([0], [], [], 0)[0]))
    first = frames.read(sys.stdin.buffer)
    if first is None:
        return
    begin = Begin(**first.data)
    inbox = Inbox(sys.stdin.buffer)

    def tell(kind: str, data: Any) -> None:
        try:
            frames.write(answers, kind, data)
        except OSError:
            inbox.over.set()

    status = 1
    try:
        status = _track(begin, inbox, tell, parent)
    except StudyError as error:
        tell("trouble", str(error))
    except Exception as error:  # noqa: BLE001 - the driver says it, and decides what to do
        traceback.print_exc()
        tell("trouble", one_line(error))
    finally:
        sys.stdout.flush()
        end_service()
        os._exit(status)


def _track(begin: Begin, inbox: Inbox, tell: Callable[[str, Any], None], parent: int) -> int:
    outline = Outline.from_data(begin.outline)
    tallies, ledger = Tallies(outline), Ledger(outline)
    folder = Path(begin.folder)
    before = logs.logged(folder, begin.id)
    last = max((one.last_step for one in before), default=-1)
    if begin.mode == "offline" and not begin.left and last >= outline.units * STRIDE:
        return 0
    run = _init(begin, folder)
    if begin.mode == "online":
        # The server knows best; what it does not have is counted again, so that older folders need no upload.
        last = int(run.starting_step) - 1
        for one in before:
            (one.folder / logs.UPLOADED).touch()
    tell("ready", {"url": run.url, "folder": str(Path(run.dir).parent), "service": getattr(_service(), "pid", None)})

    def count() -> None:
        rows = inbox.take()
        if rows:
            ledger.add(tallies.of(_frame(rows).lazy()))

    def scan() -> None:
        from study.results import current_plan

        inbox.missed = False
        ledger.add(tallies.of(current_plan.rows(begin.run)))

    prepare(lambda: False)
    if begin.replay:
        scan()
    page = Page(run, outline, ledger, last, Aside(tell))
    while not inbox.over.wait(_PULSE) and os.getppid() == parent:
        count()
        page.catch_up()
        page.present(inbox.speed, inbox.state, inbox.failures)
    count()
    if inbox.missed:
        scan()
    page.catch_up()
    if inbox.status is None:
        # The driver died: what is written so far is kept, and the next launch goes on behind it.
        run.finish(exit_code=1)
        return 1
    page.conclude(inbox.state, inbox.speed, inbox.failures)
    made = Path(run.dir).parent / "artifact"
    page.upload(f"study-{begin.id}", {"spec.json": lambda: _json(begin.config["spec"])}, made)
    page.upload_report(f"report-{begin.id}", begin.run, made)
    run.finish(exit_code=inbox.status)
    _written(Path(run.dir).parent / f"run-{begin.id}.wandb", page.last)
    if begin.mode == "online" and server.has(run, page.last):
        (Path(run.dir).parent / logs.UPLOADED).touch()
    return 0


def prepare(asked: Callable[[], bool]) -> None:
    """Load what the end needs while the backend starts and units are worked on, for nobody waits for it then; no more
    of it once something else is `asked`."""
    for load in (_load_wandb, _load_report, _draw):
        if asked():
            return
        load()


def _load_wandb() -> None:
    import wandb  # noqa: F401


def _load_report() -> None:
    from study.report.html import document  # noqa: F401


def _draw() -> None:
    """The first figure finds fonts, and makes a cache of them where there is none."""
    from matplotlib.figure import Figure

    from study.report import figures

    drawn = Figure(label="nothing")
    drawn.subplots()
    figures.svg(drawn)


def _written(log: Path, last: int) -> None:
    """Raises StudyError where W&B's service has not written all that it was given: it may have died unnoticed."""
    process = _service()
    alive = process is not None and process.poll() is None
    end_service()
    there = logs.reach(log)[1]
    if not alive or there < last:
        raise StudyError(f"W&B's service has died; its log ends at step {there} of {last}")


def _frame(rows: list[bytes]) -> Any:
    import polars as pl

    return pl.concat([pl.read_ipc_stream(io.BytesIO(content)) for content in rows])


def _init(begin: Begin, folder: Path) -> Any:
    import wandb

    settings = wandb.Settings(
        mode="online" if begin.mode == "online" else "offline",
        root_dir=str(folder),
        silent=True,
        console="off",
        disable_git=True,
        disable_code=True,
        save_code=False,
        x_disable_machine_info=True,
        x_save_requirements=False,
        x_transaction_log_flush_interval=1.0,
        init_timeout=_INIT_SECONDS,
        login_timeout=5.0,
        finish_timeout=_FINISH_SECONDS,
        finish_timeout_raises=True,
    )
    run = wandb.init(
        project=begin.project,
        entity=begin.entity,
        group=begin.group,
        tags=list(begin.tags),
        id=begin.id,
        name=begin.name,
        job_type="study",
        resume="allow",
        settings=settings,
    )
    run.config.update(begin.config, allow_val_change=True)  # type: ignore[no-untyped-call]
    return run


def _json(data: Any) -> bytes:
    import json

    return (json.dumps(data, indent=2) + "\n").encode()


def _service() -> subprocess.Popen[bytes] | None:
    """W&B's own service, which this process started."""
    from wandb.sdk import wandb_setup

    connection = getattr(wandb_setup.singleton(), "_connection", None)
    process: subprocess.Popen[bytes] | None = getattr(getattr(connection, "_proc", None), "_process", None)
    return process


def end_service() -> None:
    """See to it that W&B's service does not outlive this process, and has written all that it was given.

    It closes its log after a run has finished, when it is asked to go: killed at once, it would lose the end.
    """
    if _ended.is_set() or "wandb" not in sys.modules:
        return
    _ended.set()
    import wandb

    process = _service()
    asked = threading.Thread(target=wandb.teardown, args=(0,), daemon=True)
    asked.start()
    asked.join(_TEARDOWN_SECONDS)
    if process is not None and process.poll() is None:
        process.kill()


if __name__ == "__main__":
    main()
