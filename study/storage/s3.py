"""Runs in an object store that speaks S3: objects that read like paths, conditional PUTs, never a rename.

Credentials, region and endpoint come from the usual AWS_* variables of the environment, and stand nowhere else.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from study.errors import StudyError
from study.events.repairs import repaired
from study.process.children import driver_environment
from study.storage.lease import Lease

if TYPE_CHECKING:
    from obstore.store import S3Store

PATIENCE = 30.0
"""Seconds after which what does not answer is given up."""

_RETRIES = 8
"""Times that the client library asks again by itself, and says nothing of it."""

_ALLOWED = "AWS_ALLOW_HTTP"

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class ObjectPath:
    """An object, or what lies beneath a prefix, with the methods of a `Path` that reading a run needs."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(self.bucket, f"{self.key}/{name}")

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> ObjectPath:
        return ObjectPath(self.bucket, self.key.rpartition("/")[0])

    @property
    def suffix(self) -> str:
        return f".{self.name.rpartition('.')[2]}" if "." in self.name else ""

    def read_bytes(self) -> bytes:
        """Raises FileNotFoundError where there is no such object."""
        return _asked(self, lambda store: bytes(store.get(self.key).bytes()))

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def is_file(self) -> bool:
        try:
            _asked(self, lambda store: store.head(self.key))
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether any object lies beneath."""
        return any(True for _ in self.rglob())

    def iterdir(self) -> Iterator[ObjectPath]:
        """All objects beneath, however deep: there are no folders."""
        return self.rglob()

    def rglob(self, pattern: str = "*") -> Iterator[ObjectPath]:
        """All objects beneath, by name; `pattern` is `*` or `*.suffix`."""
        found = _asked(self, lambda store: store.list(f"{self.key}/").collect())
        for one in sorted(str(meta["path"]) for meta in found):
            if one.endswith(pattern[1:]):
                yield ObjectPath(self.bucket, one)

    def unlink(self, missing_ok: bool = False) -> None:
        """`missing_ok` or not: the store does not say whether there was one."""
        _asked(self, lambda store: store.delete(self.key))


def scan_options() -> dict[str, str]:
    """What polars is told of the endpoint, from the environment."""
    return {name.lower(): value for name, value in driver_environment().items() if name.startswith("AWS_")}


def _asked(path: ObjectPath, question: Callable[[S3Store], Answer]) -> Answer:
    """FileNotFoundError and refused conditions as they are, StudyError where the store cannot be asked."""
    store = client(path.bucket)
    from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

    try:
        return question(store)
    except (AlreadyExistsError, PreconditionError):
        raise
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise explained(path, error) from None
        raise
    except (BaseError, OSError, ValueError) as error:
        raise explained(path, error) from None


def client(bucket: str, retries: int = _RETRIES) -> S3Store:
    """Raises StudyError where the package that speaks to object stores is not installed."""
    try:
        import obstore  # noqa: F401 - whether it is there
    except ImportError:
        raise StudyError(
            f"s3://{bucket} needs the package obstore, which is not installed",
            todo="pip install 'study[s3]'",
        ) from None
    return _client(bucket, PATIENCE, retries, tuple(sorted(scan_options().items())))


@functools.cache
def _client(bucket: str, patience: float, most: int, environment: tuple[tuple[str, str], ...]) -> S3Store:
    """One for each environment: it holds connections."""
    from obstore.store import S3Store

    allowed = dict(environment).get(_ALLOWED.lower(), "").lower() in {"1", "true", "yes", "on"}
    options: Any = {
        "timeout": timedelta(seconds=patience),
        "connect_timeout": timedelta(seconds=min(5.0, patience)),
        "allow_http": allowed,
    }
    retries: Any = {"max_retries": most, "retry_timeout": timedelta(seconds=patience)}
    try:
        return S3Store(bucket, client_options=options, retry_config=retries)
    except Exception as error:  # noqa: BLE001 - a wrong setting is whatever the library makes of it
        raise StudyError(
            f"the store of s3://{bucket} cannot be reached as the environment says: {type(error).__name__}",
            todo="look at AWS_ENDPOINT_URL, AWS_REGION and the other AWS_ variables",
        ) from None


def explained(path: ObjectPath, error: Exception) -> StudyError:
    """What an object store's refusal means. Nothing of its own text, which quotes addresses and headers, is shown."""
    text = str(error)
    given = driver_environment()
    endpoint = given.get("AWS_ENDPOINT_URL") or given.get("AWS_ENDPOINT") or "Amazon's endpoint"
    endpoint = endpoint.rpartition("@")[2]
    if "NoSuchBucket" in text:
        return StudyError(
            f"there is no bucket named {path.bucket}", where=endpoint, todo="make it, or name another", status=1
        )
    if "169.254.169.254" in text:
        return StudyError(
            f"{path}: there are no credentials, and no machine role that gives any",
            where=endpoint,
            todo="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            status=1,
        )
    refused = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "ExpiredToken", "code: 401", "code: 403")
    if type(error).__name__ in {"PermissionDeniedError", "UnauthenticatedError"} or any(one in text for one in refused):
        return StudyError(
            f"{path}: the store refuses the credentials",
            where=endpoint,
            todo="look at AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, and at what they may do",
            status=1,
        )
    why = "plain HTTP is not allowed" if "BadScheme" in text else "it cannot be reached or does not answer"
    return StudyError(
        f"{path}: {why}",
        where=endpoint,
        todo="set AWS_ALLOW_HTTP=true"
        if "BadScheme" in text
        else "look at the network and AWS_ENDPOINT_URL, and launch again: what was published before is kept",
        status=1,
    )


class Objects:
    """Writes objects: serialised in memory, one PUT, whole or not there at all; a lease keeps others out."""

    def __init__(self, path: ObjectPath) -> None:
        self._path = path
        self._lease: Lease | None = None

    def claim(self, folders: tuple[str, ...], say: Callable[[str], None]) -> None:
        """Waits, saying so, until the lease of a driver that may be dead was not renewed for long enough."""
        lease = Lease(str(self._path), _Slot(self._path / "lease"))
        lease.claim(say)
        self._lease = lease

    def release(self) -> None:
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def publish(self, path: Any, content: bytes | memoryview) -> None:
        self._check()
        self._put(path, lambda store: store.put(path.key, bytes(content), mode="overwrite"))

    def publish_new(self, path: Any, content: bytes | memoryview) -> None:
        from obstore.exceptions import AlreadyExistsError

        self._check()
        whole = bytes(content)
        try:
            self._put(path, lambda store: store.put(path.key, whole, mode="create", use_multipart=False))
        except AlreadyExistsError:
            # An answer was lost on its way, or the launch before ended between the PUT and its answer.
            if path.read_bytes() != whole:
                raise StudyError(f"{path} is there already, with another content", status=1) from None

    def prepare(self, path: Any, content: bytes | memoryview) -> None:
        """Nothing: there is no renaming, so nothing can be put away first."""

    def finish(self, path: Any, content: Callable[[], bytes | memoryview]) -> None:
        self.publish_new(path, content())

    def remove(self, path: Any) -> None:
        self._check()
        path.unlink()

    def _check(self) -> None:
        if self._lease is not None:
            self._lease.check()

    def _put(self, path: ObjectPath, put: Callable[[S3Store], object]) -> None:
        """Repeated until it is answered, for `PATIENCE` seconds: every PUT here may be made twice."""
        from obstore.exceptions import AlreadyExistsError, GenericError

        store, until, pause = client(path.bucket, retries=0), time.monotonic() + PATIENCE, 0.1
        while True:
            try:
                put(store)
                return
            except AlreadyExistsError:
                raise
            except Exception as error:  # noqa: BLE001 - told in words of ours
                told = explained(path, error)
                if not isinstance(error, GenericError) or "cannot be reached" not in told.what:
                    raise told from None
                if time.monotonic() + pause >= until:
                    raise told from None
                repaired("storage", f"{path} is written again: {type(error).__name__}")
            time.sleep(pause)
            pause = min(2 * pause, 5.0)


class _Slot:
    """The object that a lease is written into: read, and written only where it is as it was read."""

    def __init__(self, path: ObjectPath) -> None:
        self._path = path

    def read(self) -> tuple[bytes, str] | None:
        """Content and e-tag; None where there is no object."""
        try:
            return _asked(self._path, lambda store: _with_tag(store.get(self._path.key)))
        except FileNotFoundError:
            return None

    def write(self, content: bytes, tag: str | None) -> str | None:
        """The new e-tag; None where it is not as it was: `tag`, or no object at all."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "create" if tag is None else {"e_tag": tag}
        try:
            return _asked(self._path, lambda store: _put_tag(store, self._path.key, content, mode))
        except (AlreadyExistsError, PreconditionError, FileNotFoundError):
            return None


def _with_tag(answer: Any) -> tuple[bytes, str]:
    return bytes(answer.bytes()), str(answer.meta["e_tag"])


def _put_tag(store: S3Store, key: str, content: bytes, mode: Any) -> str:
    return str(store.put(key, content, mode=mode, use_multipart=False)["e_tag"])
