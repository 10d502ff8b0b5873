"""The driver as a process, and the processes below it, from /proc."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from tests.processes import ROOT, STUDY, alive, descendants, gone

__all__ = ["ROOT", "Launched", "alive", "descendants", "gone", "quiet_environment", "until", "workers_below"]

_LIMIT_SECONDS = 300.0
"""No wait is longer: what takes this long hangs."""
_PR_SET_PDEATHSIG = 1


def quiet_environment() -> dict[str, str]:
    """This process's, without what would lead Ray elsewhere."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return kept | {"RAY_USAGE_STATS_ENABLED": "0"}


def _die_with_parent() -> None:
    """A test runner that is killed cleans nothing up; what a dead driver leaves, its reaper ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def workers_below(roots: Iterable[int], *, working: bool = False) -> list[int]:
    """Process ids of the workers below `roots`; with `working`, only of those that are past their start."""
    found = []
    for pid in sorted({below for root in roots for below in descendants(root)}):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::Worker") and not (working and b"__init__" in title):
            found.append(pid)
    return sorted(alive(set(found)))


def until(true: Callable[[], bool], what: str, seconds: float = _LIMIT_SECONDS) -> None:
    """Return once it is `true`. AssertionError that names `what`, after so many seconds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"after {seconds:g} s: {what}"
        time.sleep(0.2)


class Launched:
    """`study launch` as a process; what it prints stands in `log`, behind what earlier launches printed."""

    def __init__(self, words: Iterable[object], log: Path) -> None:
        self._log = log
        self._from = log.stat().st_size if log.exists() else 0
        with log.open("ab") as opened:
            self._process = subprocess.Popen(
                [*STUDY, "launch", *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=opened,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=quiet_environment(),
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - it takes no lock
            )
        self.below: set[int] = set()
        """Every process that was seen below it."""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def printed(self) -> str:
        with self._log.open("rb") as opened:
            opened.seek(self._from)
            return opened.read().decode()

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    def finish(self, seconds: float = _LIMIT_SECONDS) -> int:
        """The exit status, once it has ended. AssertionError, with all that it printed, where it does not in time."""
        deadline = time.monotonic() + seconds
        while self.status is None:
            self.look()
            if time.monotonic() > deadline:
                self.end()
                raise AssertionError(f"the launch hangs: it runs for more than {seconds:g} s\n{self.printed}")
            time.sleep(0.2)
        assert self.status is not None, "the loop ended"
        return self.status

    def look(self) -> None:
        """Remember what runs below it, for a dead process has no children to be found by."""
        self.below |= descendants(self.pid)

    def kill(self) -> bool:
        """SIGKILL, as a machine's memory guard sends it; whether it was alive."""
        self.look()
        was = self.status is None
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._process.wait()
        return was and self._process.returncode == -signal.SIGKILL

    def end(self) -> None:
        """Leave nothing of it behind."""
        self.kill()
        if not gone(self.below, 10):
            for pid in alive(self.below):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
