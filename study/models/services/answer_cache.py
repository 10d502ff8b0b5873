"""A cache on disk for the answers of a service, so that no image is sent twice."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from study.errors import StudyError

_FORMAT = 1
_TABLE = """CREATE TABLE IF NOT EXISTS answers
(question TEXT PRIMARY KEY, body TEXT NOT NULL, time TEXT NOT NULL, sha256 TEXT NOT NULL) WITHOUT ROWID"""
_REQUESTS = "CREATE TABLE IF NOT EXISTS requests (only INTEGER PRIMARY KEY CHECK (only = 1), sent INTEGER NOT NULL)"
"""The table with the number of sent requests. Files of older versions lack this table, and older programs ignore it."""


class AnswerCache:
    """A mapping from keys to answers in one SQLite file, which several threads and processes may use at once.

    When `put` returns, the answer is on disk. It then survives a kill and a power failure. Opening a damaged file, or
    reading a damaged answer, raises StudyError and does not change the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(f"the folder {path.parent} cannot be created: {error.strerror}", status=1) from None
        with self._guarded():
            self._file = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            # Invalid UTF-8 is replaced and raises no error, so that the checksum reports the damage.
            self._file.text_factory = lambda raw: raw.decode("utf-8", "replace")
            # EXTRA also synchronises the folder. With FULL, a power failure could restore the journal of a finished
            # transaction, and SQLite would then undo this transaction.
            self._file.execute("PRAGMA synchronous = EXTRA")
            ((state,),) = self._file.execute("PRAGMA quick_check(1)")
            if state != "ok":
                raise self._damaged(str(state).splitlines()[-1])
            ((version,),) = self._file.execute("PRAGMA user_version")
            ((tables,),) = self._file.execute("SELECT count(*) FROM sqlite_master")
            if version != _FORMAT and (version or tables):
                raise self._damaged("the file is another program's database")
            if not version:
                self._file.execute("BEGIN IMMEDIATE")
                self._file.execute(_TABLE)
                self._file.execute(f"PRAGMA user_version = {_FORMAT}")
                self._file.execute("COMMIT")

    def get(self, key: str) -> str | None:
        """Return the answer for `key`; None if there is no answer. Raises StudyError if the answer is damaged."""
        with self._guarded():
            rows = self._file.execute("SELECT body, time, sha256 FROM answers WHERE question = ?", [key])
            row = rows.fetchone()
        if row is None:
            return None
        body, time, sha256 = row
        if _checksum(key, body, time) != sha256:
            raise self._damaged(f"the checksum of the answer of {time} is wrong")
        return str(body)

    def put(self, key: str, body: str) -> None:
        """Store the answer `body` for `key`. If `key` already has an answer, that answer is kept."""
        time = datetime.now(UTC).isoformat(timespec="seconds")
        with self._guarded():
            self._file.execute(
                "INSERT INTO answers VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [key, body, time, _checksum(key, body, time)],
            )

    def count_request(self, most: int) -> bool:
        """Add 1 to the number of requests on disk, and return True; if the number is already `most`, return False."""
        with self._guarded():
            self._file.execute(_REQUESTS)
            self._file.execute("INSERT INTO requests VALUES (1, 0) ON CONFLICT DO NOTHING")
            done = self._file.execute("UPDATE requests SET sent = sent + 1 WHERE sent < ?", [most])
            return done.rowcount == 1

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except sqlite3.OperationalError as error:
                raise StudyError(
                    f"the answer cache {self._path} cannot be used: {error}",
                    todo="check free space, write permission, and that no other program locks the file",
                    status=1,
                ) from None
            except sqlite3.Error as error:
                raise self._damaged(str(error)) from None

    def _damaged(self, why: str) -> StudyError:
        return StudyError(
            f"the answer cache {self._path} is damaged: {why}",
            todo="restore the file from a copy; or move it away: all images are then sent to the service again",
            status=1,
        )


def _checksum(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
