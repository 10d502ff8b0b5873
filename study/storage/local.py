"""Writes a run to a local folder. A file lock keeps other drivers from writing to the same folder.

Each file is written in four steps: write a temporary file, fsync it, rename it, fsync its folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from study.errors import StudyError
from study.storage.lease import holder_name
from study.storage.paths import StoragePath


class LocalStorage:
    """The storage of one run in a local folder. Implements `Storage`.

    The lock of the folder is a file lock, which the operating system releases when the process ends in any way.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._temporary = run / "tmp"
        self._lease: IO[str] | None = None

    def claim(self, folders: tuple[str, ...], say: Callable[[str], None]) -> None:
        """Create the run folder with `folders` in it, and take its lock. Raises StudyError if another driver has it.

        This method never waits, so `say` receives nothing.
        """
        try:
            for name in folders:
                (self._run / name).mkdir(parents=True, exist_ok=True)
            self._temporary.mkdir(exist_ok=True)
            lease = (self._run / "lease").open("a+", encoding="utf-8")
        except OSError as error:
            raise self._refused(error) from None
        try:
            fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lease.seek(0)
            holder = lease.read().strip() or "another process"
            lease.close()
            raise StudyError(
                f"the run folder {self._run} is in use by {holder}",
                todo="wait until that process ends, stop it, or choose another folder with --output",
            ) from None
        except OSError as error:
            lease.close()
            raise self._refused(error) from None
        try:
            # Remove the temporary files that an earlier launch did not finish, because they take disk space.
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

    def publish(self, path: StoragePath, content: bytes | memoryview) -> None:
        try:
            self._write(path, content)
            self._move(path)
        except OSError as error:
            raise self._failed(path, error) from None

    publish_new = publish

    def stage(self, path: StoragePath, content: bytes | memoryview) -> None:
        try:
            self._write(path, content)
        except OSError as error:
            raise self._failed(path, error) from None

    def commit(self, path: StoragePath, content: Callable[[], bytes | memoryview]) -> None:
        try:
            self._move(path)
        except OSError as error:
            raise self._failed(path, error) from None

    def remove(self, path: StoragePath) -> None:
        assert isinstance(path, Path), "a local run has local paths"
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            _sync_folder(path.parent)
        except OSError as error:
            raise self._failed(path, error) from None

    def _staged(self, path: StoragePath) -> Path:
        return self._temporary / f"{path.name}.{os.getpid()}"

    def _write(self, path: StoragePath, content: bytes | memoryview) -> None:
        descriptor = os.open(self._staged(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            left = memoryview(content)
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _move(self, path: StoragePath) -> None:
        os.rename(self._staged(path), str(path))
        _sync_folder(Path(str(path)).parent)

    def _failed(self, path: StoragePath, error: OSError) -> StudyError:
        # A second error does not matter: the next `claim` removes the temporary file. The user needs the first error.
        with contextlib.suppress(OSError):
            self._staged(path).unlink(missing_ok=True)
        return StudyError(
            f"{path} cannot be written: {error.strerror}",
            where=f"{self._run} ({_free(self._run)} free)",
            todo="free disk space or repair the folder, then launch again: published results are kept",
            status=1,
        )

    def _refused(self, error: OSError) -> StudyError:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        return StudyError(
            f"the run folder {self._run} cannot be written: {error.strerror}",
            todo="free disk space, then launch again" if full else "choose another folder with --output",
            status=1 if full else 2,
        )


def _close(lease: IO[str]) -> None:
    # `close` also flushes. After a failed write, this flush fails again, but the descriptor is closed nevertheless.
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
