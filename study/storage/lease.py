"""A lease in an object store: one object, written only where it is as it was last seen, renewed while its holder lives.

Nobody compares clocks. A lease that is watched for `SECONDS` without being renewed belongs to a dead driver; a holder
that could not renew for that long holds itself to have lost it. One PUT that is under way at that moment cannot be
called back: `study verify` would name what it doubled.
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


class Slot(Protocol):
    """Where a lease is written."""

    def read(self) -> tuple[bytes, str] | None:
        """Content and version; None where there is nothing."""

    def write(self, content: bytes, tag: str | None) -> str | None:
        """The new version; None, and nothing is changed, where it is not at version `tag` (None: nothing there)."""


class Lease:
    """Held from `claim` to `release`, renewed by a thread of its own."""

    def __init__(self, what: str, slot: Slot) -> None:
        self._what = what
        self._slot = slot
        self._id = uuid.uuid4().hex
        self._seconds = SECONDS
        self._tag: str | None = None
        self._renewed = 0.0
        self._lost: str | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def claim(self, say: Callable[[str], None]) -> None:
        """Raises StudyError where the holder is seen to be alive; waits for that long, and says so."""
        began = time.monotonic()
        seen = self._slot.read()
        if seen is not None and (holder := _holder(seen[0])) is not None:
            say(
                f"{self._what} is leased to {holder} until {_until(seen[0])}; "
                f"waiting {self._seconds:.0f} s to see whether it is renewed"
            )
            while time.monotonic() - began < self._seconds:
                time.sleep(min(1.0, self._seconds / 10))
                now = self._slot.read()
                if now is not None and _holder(now[0]) is not None:
                    if now[1] != seen[1]:
                        raise self._in_use(now[0])
                else:
                    seen = now
                    break
            else:
                repaired("lease", f"{holder} did not renew its lease: it is held to be dead, and its lease taken over")
        begun = time.monotonic()
        self._tag = self._write(None if seen is None else seen[1])
        if self._tag is None:
            now = self._slot.read()
            raise self._in_use(now[0] if now else b"{}")
        self._renewed = begun
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Say that nobody holds it. What cannot be said now is found out by whoever waits."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            if self._tag is None or self._lost:
                return
            # The study's own outcome counts; where this cannot be said, the next driver waits for a minute.
            with contextlib.suppress(StudyError):
                self._slot.write(b"{}", self._tag)

    def check(self) -> None:
        """Raises StudyError where the lease is lost: then nothing may be written any more."""
        if self._lost is None and time.monotonic() - self._renewed > 0.75 * self._seconds:
            # This process may have slept; it is still the holder where nobody has written since.
            self._renew()
        if self._lost is not None:
            raise StudyError(
                f"{self._what}: this driver has lost its lease: {self._lost}",
                todo="see that no other driver runs this study, then launch again: what was published is kept",
                status=1,
            )

    def _keep(self) -> None:
        while not self._stop.wait(self._seconds / 5) and self._lost is None:
            try:
                self._renew()
            except StudyError as error:
                if time.monotonic() - self._renewed > self._seconds:
                    self._lost = f"it could not be renewed for {self._seconds:.0f} s ({error.what})"
                else:
                    repaired("lease", f"the lease could not be renewed, which is tried again: {error.what}")

    def _renew(self) -> None:
        with self._lock:
            begun = time.monotonic()
            tag = self._write(self._tag)
            if tag is None:
                now = self._slot.read()
                self._lost = f"{_holder(now[0]) or 'somebody'} has taken it" if now else "somebody has deleted it"
            else:
                self._tag, self._renewed = tag, begun

    def _write(self, tag: str | None) -> str | None:
        """The new version, also where the store's first answer to this very write was lost."""
        content = self._content()
        written = self._slot.write(content, tag)
        if written is None:
            now = self._slot.read()
            if now is not None and now[0] == content:
                return now[1]
        return written

    def _content(self) -> bytes:
        now = datetime.now(UTC)
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        until = now + timedelta(seconds=self._seconds)
        return json.dumps(
            {
                "holder": holder,
                "id": self._id,
                "time": now.isoformat(),
                "until": until.isoformat(timespec="seconds"),
            }
        ).encode()

    def _in_use(self, content: bytes) -> StudyError:
        return StudyError(
            f"{self._what} is in use by {_holder(content) or 'another driver'}, until {_until(content)} and renewed",
            todo="wait until it ends, stop it, or choose another place with --output",
        )


def _holder(content: bytes) -> str | None:
    """None where the lease was given back."""
    try:
        found = json.loads(content).get("holder")
    except (ValueError, AttributeError):
        return "somebody who left no name"
    return None if found is None else str(found)


def _until(content: bytes) -> str:
    try:
        return str(json.loads(content).get("until", "an unknown time"))
    except (ValueError, AttributeError):
        return "an unknown time"
