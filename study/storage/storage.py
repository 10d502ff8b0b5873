"""The interface through which a run is written, and the choice of its implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from study.storage.local import LocalStorage
from study.storage.paths import StoragePath
from study.storage.s3 import S3Storage
from study.storage.s3_path import S3Path


class Storage(Protocol):
    """Writes the files of one run. Every method raises StudyError if writing fails, or another driver has the run."""

    def claim(self, folders: tuple[str, ...], say: Callable[[str], None]) -> None:
        """Keep all other drivers out until `release`, or until this process ends in any way.

        Creates `folders` in a local run; S3 has no folders. `say` receives a line if the claim has to wait.
        """

    def release(self) -> None:
        """Let other drivers in."""

    def publish(self, path: StoragePath, content: bytes | memoryview) -> None:
        """Write a file, or replace it. Readers see the whole old content or the whole new content."""

    def publish_new(self, path: StoragePath, content: bytes | memoryview) -> None:
        """Write a file whose name belongs to this content alone, such as a part. Writing it twice is harmless."""

    def stage(self, path: StoragePath, content: bytes | memoryview) -> None:
        """Store `content` for `path` where no reader sees it yet.

        `commit` then publishes it quickly, so that several files can appear nearly at the same time.
        """

    def commit(self, path: StoragePath, content: Callable[[], bytes | memoryview]) -> None:
        """Publish the content that was staged for `path`. A storage that cannot stage publishes `content()` instead."""

    def remove(self, path: StoragePath) -> None:
        """Delete a file permanently. A missing file is no error."""


def open_storage(run: StoragePath) -> Storage:
    """Return the storage that writes to `run`."""
    return S3Storage(run) if isinstance(run, S3Path) else LocalStorage(run)
