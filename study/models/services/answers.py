"""What a service answers: read by the paths that the spec gives, and kept for ever."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from study.errors import StudyError
from study.models.services.service_spec import Remote, spoken

_FORMAT = 1
_TABLE = """CREATE TABLE IF NOT EXISTS answers
(question TEXT PRIMARY KEY, body TEXT NOT NULL, time TEXT NOT NULL, sha256 TEXT NOT NULL) WITHOUT ROWID"""


class NotPromised(Exception):
    """An answer that is not what the spec says of it; the text says why, and quotes none of it."""


@dataclass(frozen=True)
class Reply:
    """A service's labels for one image, best first, as `spoken`, and their scores; none where it gives none."""

    names: tuple[str, ...]
    scores: tuple[float, ...]


def read(body: str, remote: Remote) -> Reply:
    """The labels in `body`, a JSON text, by falling score, in the order given where scores are equal or not given.

    Raises NotPromised where it is not JSON, where a path leads nowhere, and for labels that are not text and scores
    that are not finite numbers.
    """
    try:
        data = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise NotPromised("the answer is not JSON") from None
    labels = found(data, remote.labels)
    if not all(isinstance(label, str) and spoken(label) and _is_text(label) for label in labels):
        raise NotPromised(f"at {remote.labels} stands something that is no text")
    if remote.scores is None:
        return Reply(tuple(map(spoken, labels[: remote.top])), ())
    scores = [_number(score, remote.scores) for score in found(data, remote.scores)]
    if len(scores) != len(labels):
        raise NotPromised(f"there are {len(labels)} labels and {len(scores)} scores")
    best = sorted(range(len(labels)), key=lambda index: -scores[index])[: remote.top]
    return Reply(tuple(spoken(labels[index]) for index in best), tuple(scores[index] for index in best))


def found(data: Any, path: str) -> list[Any]:
    """All that `path` leads to, in order. Raises NotPromised where a key or a list position is missing."""
    here, walked = [data], ""
    for part in path.split("."):
        inside: list[Any] = []
        for value in here:
            if part == "*" and isinstance(value, list):
                inside.extend(value)
            elif isinstance(value, dict) and part in value:
                inside.append(value[part])
            elif isinstance(value, list) and part.isdecimal() and len(part) < 10 and int(part) < len(value):
                inside.append(value[int(part)])
            else:
                raise NotPromised(f"the answer has no '{part}' {f'at {walked}' if walked else 'at its top'}")
        here, walked = inside, f"{walked}.{part}" if walked else part
    return here


def _number(value: Any, path: str) -> float:
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise NotPromised(f"at {path} stands something that is no finite number")
    return number


def _is_text(label: str) -> bool:
    """Whether it can be written: JSON can spell halves of characters."""
    return not any("\ud800" <= letter <= "\udfff" for letter in label)


def _no_number(name: str) -> None:
    raise ValueError(name)


class Answers:
    """Answers by question, in one SQLite file that several threads and processes may use at once.

    What `keep` has returned from is on the disk: it outlives a kill and a power failure. A damaged file is a
    StudyError, of `open` or of the answer that is damaged, and stays as it is.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(f"the folder {path.parent} cannot be made: {error.strerror}", status=1) from None
        with self._guarded():
            self._file = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            # Broken text too shall reach the checksum.
            self._file.text_factory = lambda raw: raw.decode("utf-8", "replace")
            # More than FULL: the folder is synchronised too, else a power failure could bring back a finished journal.
            self._file.execute("PRAGMA synchronous = EXTRA")
            ((state,),) = self._file.execute("PRAGMA quick_check(1)")
            if state != "ok":
                raise self._damaged(str(state).splitlines()[-1])
            ((version,),) = self._file.execute("PRAGMA user_version")
            ((tables,),) = self._file.execute("SELECT count(*) FROM sqlite_master")
            if version != _FORMAT and (version or tables):
                raise self._damaged("it is a database of something else")
            if not version:
                self._file.execute("BEGIN IMMEDIATE")
                self._file.execute(_TABLE)
                self._file.execute(f"PRAGMA user_version = {_FORMAT}")
                self._file.execute("COMMIT")

    def get(self, question: str) -> str | None:
        """The body of the answer to `question`; StudyError where it is damaged."""
        with self._guarded():
            rows = self._file.execute("SELECT body, time, sha256 FROM answers WHERE question = ?", [question])
            row = rows.fetchone()
        if row is None:
            return None
        body, time, sha256 = row
        if _checksum(question, body, time) != sha256:
            raise self._damaged(f"the answer of {time} is not as it was written")
        return str(body)

    def keep(self, question: str, body: str) -> None:
        """Write an answer down. The first one to a question stays."""
        time = datetime.now(UTC).isoformat(timespec="seconds")
        with self._guarded():
            self._file.execute(
                "INSERT INTO answers VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [question, body, time, _checksum(question, body, time)],
            )

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except sqlite3.OperationalError as error:
                raise StudyError(
                    f"the kept answers {self._path} cannot be used: {error}",
                    todo="see that the disk has room, and that the file may be written and is held by no one else",
                    status=1,
                ) from None
            except sqlite3.Error as error:
                raise self._damaged(str(error)) from None

    def _damaged(self, why: str) -> StudyError:
        return StudyError(
            f"the kept answers {self._path} are damaged: {why}",
            todo="bring the file back from a copy; or move it away, and everything is asked again",
            status=1,
        )


def _checksum(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
