"""Defines the interface through which a run is written, and chooses its implementation: a local folder or S3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from study.storage.local import LocalStorage
from study.storage.paths import StoragePath
from study.storage.s3 import S3Storage
from study.storage.s3_path import S3Path


class Storage(Protocol):
    """The interface that writes the files of one run.

    Only one driver (process of a launch) may write to a run. Every method raises StudyError if writing fails, or if
    another driver has claimed the run.
    """

    def claim(self, folders: tuple[str, ...], say: Callable[[str], None]) -> None:
        """Reserve the run for this driver (process of a launch), until `release` or until this process ends in any way.

        Also create `folders` in the folder of a local run; S3 has no folders. `say` receives a line if this method has
        to wait.
        """

    def release(self) -> None:
        """Let other drivers (processes of launches) claim the run."""

    def publish(self, path: StoragePath, content: bytes | memoryview) -> None:
        """Write a file or replace an existing file. Readers see the whole old content or the whole new content."""

    def publish_new(self, path: StoragePath, content: bytes | memoryview) -> None:
        """Write a new file whose name is used only for this content, such as a part.

        To write the same content twice is harmless.
        """

    def stage(self, path: StoragePath, content: bytes | memoryview) -> None:
        """Store `content` in a place that readers do not see, until `commit` publishes it at `path`.

        `commit` is fast. So a caller can stage several files first, and then publish them nearly at the same time.
        """

    def commit(self, path: StoragePath, content: Callable[[], bytes | memoryview]) -> None:
        """Publish the content that was staged for `path`.

        If this storage cannot stage content, publish `content()` instead.
        """

    def remove(self, path: StoragePath) -> None:
        """Delete a file permanently. If the file does not exist, do nothing."""


def open_storage(run: StoragePath) -> Storage:
    """Return the storage that writes to the run at the path `run`."""
    return S3Storage(run) if isinstance(run, S3Path) else LocalStorage(run)
