"""Every path of a run, and the rules under which a folder is written: one driver, whole files, nothing written over."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from study.errors import StudyError


class RunFolder:
    """The folder of one study. Nothing is created until `claim`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lease: IO[str] | None = None

    @property
    def results(self) -> Path:
        """Parquet parts and nothing else."""
        return self.path / "results"

    @property
    def spec(self) -> Path:
        """The resolved spec that the folder belongs to."""
        return self.path / "spec.yaml"

    @property
    def images(self) -> Path:
        """What was selected, with the clean predictions of every model."""
        return self.path / "images.parquet"

    @property
    def models(self) -> Path:
        """Digest, size and parameters of every model, as loaded."""
        return self.path / "models.json"

    @property
    def temporary(self) -> Path:
        """Files that are not whole yet: beside `results`, on the same file system."""
        return self.path / "tmp"

    @property
    def failures(self) -> Path:
        """What the last launch set aside, if anything."""
        return self.path / "failures.json"

    @property
    def unreadable(self) -> Path:
        """Image files that the study was told to leave out because they cannot be read."""
        return self.path / "unreadable.json"

    def answers(self, model: str) -> Path:
        """What the remote service behind `model` has answered: never asked again."""
        return self.path.resolve() / "answers" / f"{model}.sqlite"

    @property
    def begun(self) -> bool:
        """Whether images were selected: from then on the folder belongs to its spec."""
        return self.spec.is_file() and self.models.is_file() and self.images.is_file()

    def claim(self) -> None:
        """Create the folder and keep every other driver out of it, until this process ends, however it ends.

        Raises StudyError where another driver holds it, or the folder cannot be written.
        """
        try:
            self.results.mkdir(parents=True, exist_ok=True)
            self.temporary.mkdir(exist_ok=True)
            lease = (self.path / "lease").open("a+", encoding="utf-8")
        except OSError as error:
            raise StudyError(
                f"the run folder {self.path} cannot be written: {error.strerror}",
                todo="choose another with --output",
            ) from None
        try:
            fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lease.seek(0)
            holder = lease.read().strip() or "another process"
            lease.close()
            raise StudyError(
                f"the run folder {self.path} is in use by {holder}",
                todo="wait until it ends, stop it, or choose another folder with --output",
            ) from None
        lease.truncate(0)
        lease.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lease.flush()
        self._lease = lease
        for stray in self.temporary.iterdir():
            stray.unlink()

    def release(self) -> None:
        """Let another driver in."""
        if self._lease is not None:
            self._lease.close()
            self._lease = None

    def write_text(self, path: Path, text: str) -> None:
        """Put a whole file in place, or none."""
        self.publish(path, text.encode())

    def write_json(self, path: Path, data: Mapping[str, Any]) -> None:
        self.write_text(path, json.dumps(data, indent=2) + "\n")

    def publish(self, path: Path, content: bytes | memoryview) -> None:
        """Write to a temporary file, fsync, rename into place, fsync the folder: whole or not there at all."""
        away = self.temporary / f"{path.name}.{os.getpid()}"
        try:
            with away.open("wb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
            away.rename(path)
            _sync_folder(path.parent)
        except OSError as error:
            away.unlink(missing_ok=True)
            raise StudyError(
                f"{path} cannot be written: {error.strerror}",
                where=f"{self.path} ({_free(self.path)} free)",
                todo="make room or mend the folder, then launch again: what was published before is kept",
                status=1,
            ) from None


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
