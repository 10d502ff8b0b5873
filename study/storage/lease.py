"""A lease on a run in an object store. Only one driver (process of a launch), its holder, may write to the run.

The lease is one object in the store. The holder renews its lease by writing this object again. Every write is a
compare-and-swap: it succeeds only if no other driver has changed the object since the writer read it.

Clocks of machines are never compared. If a driver watches the lease of another driver for `SECONDS` and sees no
renewal, it takes the lease over. A holder that cannot renew its lease for `SECONDS` treats the lease as lost. A PUT
that is under way at that moment cannot be stopped. If such a PUT duplicates rows, `study verify` reports them.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from study.errors import StudyError
from study.events.repairs import repaired

SECONDS = 60.0
"""The time in seconds for which a lease is valid without a renewal."""


class VersionedObject(Protocol):
    """The object in the store that records a lease. Its writes are compare-and-swap operations."""

    def read(self) -> tuple[bytes, str] | None:
        """Return the object's content and version; None if the object does not exist."""

    def write(self, content: bytes, version: str | None) -> str | None:
        """Write `content` if the object still has `version`, and return its new version.

        If `version` is None, write only if the object does not exist. If the object has another version, change nothing
        and return None.
        """


class Lease:
    """A lease on a run. `claim` takes the lease and `release` gives it up; between these calls, a thread renews it."""

    def __init__(self, run: str, stored: VersionedObject) -> None:
        self._run = run
        self._object = stored
        self._id = uuid.uuid4().hex
        self._seconds = SECONDS
        self._version: str | None = None
        self._renewed = 0.0
        self._lost: str | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def claim(self, say: Callable[[str], None]) -> None:
        """Take the lease.

        If another driver has the lease, first give a line to `say`. Then wait until the other driver releases the
        lease, or has not renewed it for `SECONDS`. Raises StudyError if another driver renews or takes it meanwhile.
        """
        began = time.monotonic()
        seen = self._object.read()
        if seen is not None and (holder := _holder(seen[0])) is not None:
            say(
                f"{self._run} is leased to {holder} until {_until(seen[0])}; "
                f"waiting {self._seconds:.0f} s to see whether it is renewed"
            )
            while time.monotonic() - began < self._seconds:
                time.sleep(min(1.0, self._seconds / 10))
                now = self._object.read()
                if now is None or _holder(now[0]) is None:
                    seen = now
                    break
                if now[1] != seen[1]:
                    raise self._in_use(now[0])
            else:
                repaired("lease", f"{holder} did not renew its lease and counts as dead; this driver takes the lease")
        begun = time.monotonic()
        self._version = self._write(None if seen is None else seen[1])
        if self._version is None:
            now = self._object.read()
            raise self._in_use(now[0] if now else b"{}")
        self._renewed = begun
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Release the lease. If the store cannot be written, the next driver waits until the lease expires."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            if self._version is not None and not self._lost:
                # An error here must not hide the outcome of the study. It only makes the next driver wait.
                with contextlib.suppress(StudyError):
                    self._object.write(b"{}", self._version)

    def check(self) -> None:
        """Raise StudyError if the lease is lost. This driver must then not write to the run any more."""
        if self._lost is None and time.monotonic() - self._renewed > 0.75 * self._seconds:
            # The process may have been suspended, so that its thread did not renew the lease. If no other driver has
            # written the object since then, the renewal succeeds.
            self._renew()
        if self._lost is not None:
            raise StudyError(
                f"{self._run}: this driver has lost its lease: {self._lost}",
                todo="make sure that no other driver runs this study, then launch again: published results are kept",
                status=1,
            )

    def _keep(self) -> None:
        while not self._stop.wait(self._seconds / 5) and self._lost is None:
            try:
                self._renew()
            except StudyError as error:
                if time.monotonic() - self._renewed > self._seconds:
                    self._lost = f"the lease could not be renewed for {self._seconds:.0f} s ({error.what})"
                else:
                    repaired("lease", f"the lease could not be renewed; the driver tries again: {error.what}")

    def _renew(self) -> None:
        with self._lock:
            begun = time.monotonic()
            version = self._write(self._version)
            if version is None:
                now = self._object.read()
                taken_by = _holder(now[0]) or "another driver" if now else None
                self._lost = f"{taken_by} has taken it" if taken_by else "the object was deleted"
            else:
                self._version, self._renewed = version, begun

    def _write(self, version: str | None) -> str | None:
        """Write the lease and return its new version; None if another driver has written the object.

        The store client repeats a write whose answer was lost. If the first write did succeed, the repeated write
        fails, although the object already has the content of this driver. This case counts as success.
        """
        content = self._content()
        written = self._object.write(content, version)
        if written is None:
            now = self._object.read()
            if now is not None and now[0] == content:
                return now[1]
        return written

    def _content(self) -> bytes:
        now = datetime.now(UTC)
        until = now + timedelta(seconds=self._seconds)
        content = {
            "holder": holder_name(),
            "id": self._id,
            "time": now.isoformat(),
            "until": until.isoformat(timespec="seconds"),
        }
        return json.dumps(content).encode()

    def _in_use(self, content: bytes) -> StudyError:
        return StudyError(
            f"{self._run} is in use by {_holder(content) or 'another driver'}, which renews its lease: "
            f"the lease now ends {_until(content)}",
            todo="wait until that driver ends, stop it, or choose another place with --output",
        )


def holder_name() -> str:
    """Return the name of this process and its host, as recorded in a lease. Other drivers show it in their errors."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def _holder(content: bytes) -> str | None:
    """Return the name of the holder, read from the content of a lease object; None if the lease was released."""
    try:
        found = json.loads(content).get("holder")
    except (ValueError, AttributeError):
        return "an unknown driver"
    return None if found is None else str(found)


def _until(content: bytes) -> str:
    try:
        return str(json.loads(content).get("until", "an unknown time"))
    except (ValueError, AttributeError):
        return "an unknown time"
