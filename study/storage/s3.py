"""Writes a run to S3: each file is one object. A lease keeps other drivers from writing to the same run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from study.errors import StudyError
from study.events.repairs import repaired
from study.storage import s3_path
from study.storage.lease import Lease
from study.storage.s3_path import S3Path, request

if TYPE_CHECKING:
    from obstore.store import S3Store


class S3Storage:
    """The storage of one run in S3. Readers see a whole object or no object. Implements `Storage`."""

    def __init__(self, run: S3Path) -> None:
        self._run = run
        self._lease: Lease | None = None

    def claim(self, folders: tuple[str, ...], say: Callable[[str], None]) -> None:
        """Take the lease of the run. If another driver may still have it, first give a line to `say` and wait.

        Raises StudyError if another driver has the lease and renews it. `folders` are ignored: S3 has no folders.
        """
        lease = Lease(str(self._run), LeaseObject(self._run / "lease"))
        lease.claim(say)
        self._lease = lease

    def release(self) -> None:
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def publish(self, path: Any, content: bytes | memoryview) -> None:
        self._check_lease()
        self._put(path, lambda store: store.put(path.key, bytes(content), mode="overwrite"))

    def publish_new(self, path: Any, content: bytes | memoryview) -> None:
        from obstore.exceptions import AlreadyExistsError

        self._check_lease()
        whole = bytes(content)
        try:
            self._put(path, lambda store: store.put(path.key, whole, mode="create", use_multipart=False))
        except AlreadyExistsError:
            # An earlier attempt may have written the object, although its answer was lost or its process died.
            if path.read_bytes() != whole:
                raise StudyError(f"{path} already exists with other content", status=1) from None

    def stage(self, path: Any, content: bytes | memoryview) -> None:
        """Do nothing. Staged content would have to be renamed later, and S3 cannot rename objects."""

    def commit(self, path: Any, content: Callable[[], bytes | memoryview]) -> None:
        self.publish_new(path, content())

    def remove(self, path: Any) -> None:
        self._check_lease()
        path.unlink()

    def _check_lease(self) -> None:
        if self._lease is not None:
            self._lease.check()

    def _put(self, path: S3Path, put: Callable[[S3Store], object]) -> None:
        """Call `put` with the store's client, and repeat the call if the store does not answer.

        A repeated PUT does no harm, because it writes the same content. Raises StudyError after `TIMEOUT_SECONDS`, or
        after an error that a repetition cannot remedy. Raises AlreadyExistsError if `put` raises it.
        """
        from obstore.exceptions import AlreadyExistsError, GenericError

        timeout = s3_path.TIMEOUT_SECONDS
        store, deadline, pause = s3_path.client(path.bucket, retries=0), time.monotonic() + timeout, 0.1
        while True:
            try:
                put(store)
                return
            except AlreadyExistsError:
                raise
            except Exception as error:  # noqa: BLE001 - every error of the store is translated
                permanent = s3_path.known_cause(path, error) or not isinstance(error, GenericError)
                if permanent or time.monotonic() + pause >= deadline:
                    raise s3_path.storage_error(path, error) from None
                repaired("storage", f"writing {path} again after {type(error).__name__}")
            time.sleep(pause)
            pause = min(2 * pause, 5.0)


class LeaseObject:
    """The S3 object that records a lease. Its version is its e-tag. Implements `VersionedObject`."""

    def __init__(self, path: S3Path) -> None:
        self._path = path

    def read(self) -> tuple[bytes, str] | None:
        try:
            return request(self._path, self._get)
        except FileNotFoundError:
            return None

    def write(self, content: bytes, version: str | None) -> str | None:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "create" if version is None else {"e_tag": version}
        try:
            return request(
                self._path,
                lambda store: str(store.put(self._path.key, content, mode=mode, use_multipart=False)["e_tag"]),
            )
        except (AlreadyExistsError, PreconditionError, FileNotFoundError):
            return None

    def _get(self, store: S3Store) -> tuple[bytes, str]:
        answer = store.get(self._path.key)
        return bytes(answer.bytes()), str(answer.meta["e_tag"])
