"""Where runs lie: a local folder, or objects behind an S3 endpoint. Both publish whole files and let one driver in."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol

from study.errors import StudyError
from study.storage.s3 import ObjectPath, Objects

Place = Path | ObjectPath
"""A file or folder of a run. What is not a `Path` has the methods of one that reading needs."""

_ADDRESS = re.compile(r"s3:/+([^/]+)/*(.*)")

Say = Callable[[str], None]


def place(given: str | Path | ObjectPath) -> Place:
    """What a person names as a run: a folder, or `s3://bucket/prefix` (also where it went through a `Path`)."""
    if isinstance(given, ObjectPath):
        return given
    found = _ADDRESS.fullmatch(str(given))
    if found is None:
        if re.match(r"[a-z0-9+]+:/+", str(given)):
            raise StudyError(f"{given} is no place for a run", accepted="a folder, or s3://bucket/prefix")
        return Path(given)
    bucket, key = found.groups()
    if not key.strip("/"):
        raise StudyError(
            f"{given} names a bucket, and a run needs a prefix in it", accepted="s3://bucket/prefix", where="--output"
        )
    return ObjectPath(bucket, "/".join(part for part in key.split("/") if part))


def storage(where: Place) -> Storage:
    """What writes to `where`."""
    return Objects(where) if isinstance(where, ObjectPath) else Folder(where)


class Storage(Protocol):
    """Writes into one run. Every method raises StudyError where the place cannot be written or is held by another."""

    def claim(self, folders: tuple[str, ...], say: Say) -> None:
        """Keep every other driver out, until `release` or until this process ends, however it ends."""

    def release(self) -> None:
        """Let another driver in."""

    def publish(self, path: Place, content: bytes | memoryview) -> None:
        """Put a whole file in place of what is there, or none."""

    def publish_new(self, path: Place, content: bytes | memoryview) -> None:
        """The same under a new name, which belongs to this content alone: doing it twice is doing it once."""

    def prepare(self, path: Place, content: bytes | memoryview) -> None:
        """First half of publishing several files at once: nobody sees `content` yet."""

    def finish(self, path: Place, content: Callable[[], bytes | memoryview]) -> None:
        """Second half: what was prepared for `path` is there; `content` makes it again where nothing was kept."""

    def remove(self, path: Place) -> None:
        """Take a file away for good; none there is as good."""


class Folder:
    """A local folder: temporary file, fsync, rename, fsync of the folder; a file lock keeps others out."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path / "tmp"
        self._lease: IO[str] | None = None

    def claim(self, folders: tuple[str, ...], say: Say) -> None:
        """`say` has nothing to hear: the system lets go of a dead driver's lock at once."""
        try:
            for name in folders:
                (self._path / name).mkdir(parents=True, exist_ok=True)
            self._temporary.mkdir(exist_ok=True)
            lease = (self._path / "lease").open("a+", encoding="utf-8")
        except OSError as error:
            raise self._refused(error) from None
        try:
            fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lease.seek(0)
            holder = lease.read().strip() or "another process"
            lease.close()
            raise StudyError(
                f"the run folder {self._path} is in use by {holder}",
                todo="wait until it ends, stop it, or choose another folder with --output",
            ) from None
        except OSError as error:
            lease.close()
            raise self._refused(error) from None
        try:
            # What an earlier launch left unfinished may be what fills the disk.
            for stray in self._temporary.iterdir():
                stray.unlink()
            lease.truncate(0)
            lease.write(f"{holder_name()}\n")
            lease.flush()
        except OSError as error:
            _close(lease)
            raise self._refused(error) from None
        self._lease = lease

    def release(self) -> None:
        if self._lease is not None:
            self._lease.close()
            self._lease = None

    def publish(self, path: Place, content: bytes | memoryview) -> None:
        try:
            self._write(path, content)
            self._move(path)
        except OSError as error:
            raise self._failed(path, error) from None

    publish_new = publish

    def prepare(self, path: Place, content: bytes | memoryview) -> None:
        try:
            self._write(path, content)
        except OSError as error:
            raise self._failed(path, error) from None

    def finish(self, path: Place, content: Callable[[], bytes | memoryview]) -> None:
        try:
            self._move(path)
        except OSError as error:
            raise self._failed(path, error) from None

    def remove(self, path: Place) -> None:
        assert isinstance(path, Path), "a folder holds files"
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            _sync_folder(path.parent)
        except OSError as error:
            raise self._failed(path, error) from None

    def _away(self, path: Place) -> Path:
        return self._temporary / f"{path.name}.{os.getpid()}"

    def _write(self, path: Place, content: bytes | memoryview) -> None:
        descriptor = os.open(self._away(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            left = memoryview(content)
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _move(self, path: Place) -> None:
        os.rename(self._away(path), str(path))
        _sync_folder(Path(str(path)).parent)

    def _failed(self, path: Place, error: OSError) -> StudyError:
        # The next claim sweeps what stays; the first error is the one to tell.
        with contextlib.suppress(OSError):
            self._away(path).unlink(missing_ok=True)
        return StudyError(
            f"{path} cannot be written: {error.strerror}",
            where=f"{self._path} ({_free(self._path)} free)",
            todo="make room or mend the folder, then launch again: what was published before is kept",
            status=1,
        )

    def _refused(self, error: OSError) -> StudyError:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        return StudyError(
            f"the run folder {self._path} cannot be written: {error.strerror}",
            todo="make room, then launch again" if full else "choose another with --output",
            status=1 if full else 2,
        )


def holder_name() -> str:
    """Who holds a lease, for the error that another driver reads."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def _close(lease: IO[str]) -> None:
    # What could not be written before cannot be now, and the descriptor is closed all the same.
    with contextlib.suppress(OSError):
        lease.close()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free(folder: Path) -> str:
    try:
        found = os.statvfs(folder)
    except OSError:
        return "unknown space"
    return f"{found.f_bavail * found.f_frsize / 2**20:,.0f} MiB"
