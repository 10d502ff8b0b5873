"""Paths of objects in an S3 store. They have the methods of `Path` that are needed to read a run.

Credentials, region and endpoint come from the AWS_* environment variables. They are never written to a file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from study.distribution import installing
from study.errors import StudyError
from study.process.children import driver_environment

if TYPE_CHECKING:
    from obstore.store import S3Store

TIMEOUT_SECONDS = 30.0
"""The longest time in seconds to wait for the answer to a request, all retries included."""

_CLIENT_RETRIES = 8
"""The largest number of retries that the client library obstore makes. It does not report its retries."""

_ALLOW_HTTP = "AWS_ALLOW_HTTP"
_REJECTED = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "ExpiredToken", "code: 401", "code: 403")

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class S3Path:
    """The path of an object in S3, or of all objects under a prefix."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def __truediv__(self, name: str) -> S3Path:
        return S3Path(self.bucket, f"{self.key}/{name}")

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> S3Path:
        return S3Path(self.bucket, self.key.rpartition("/")[0])

    @property
    def suffix(self) -> str:
        return f".{self.name.rpartition('.')[2]}" if "." in self.name else ""

    def read_bytes(self) -> bytes:
        """Return the object's content. Raises FileNotFoundError if the object does not exist."""
        return request(self, lambda store: bytes(store.get(self.key).bytes()))

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def is_file(self) -> bool:
        try:
            request(self, lambda store: store.head(self.key))
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Return whether any object has this prefix."""
        return any(True for _ in self.rglob())

    def iterdir(self) -> Iterator[S3Path]:
        """Yield all objects under this prefix, at any depth, because S3 has no folders."""
        return self.rglob()

    def rglob(self, pattern: str = "*") -> Iterator[S3Path]:
        """Yield all objects under this prefix, sorted by key. `pattern` is `*` or `*.suffix`."""
        found = request(self, lambda store: store.list(f"{self.key}/").collect())
        for key in sorted(str(entry["path"]) for entry in found):
            if key.endswith(pattern[1:]):
                yield S3Path(self.bucket, key)

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object. S3 does not report whether it existed, so `missing_ok` has no effect."""
        request(self, lambda store: store.delete(self.key))


def scan_options() -> dict[str, str]:
    """Return the AWS_* environment variables in the form of polars' argument `storage_options`: lower-case names."""
    return {name.lower(): value for name, value in driver_environment().items() if name.startswith("AWS_")}


def request(path: S3Path, call: Callable[[S3Store], Answer]) -> Answer:
    """Return `call(store)`, where `store` is the client of `path`'s bucket.

    Raises StudyError for all errors of the store except three, which are raised unchanged: FileNotFoundError, and
    obstore's AlreadyExistsError and PreconditionError. If the bucket does not exist, the error is a StudyError too.
    """
    store = client(path.bucket)
    from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

    try:
        return call(store)
    except (AlreadyExistsError, PreconditionError):
        raise
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise storage_error(path, error) from None
        raise
    except (BaseError, OSError, ValueError) as error:
        raise storage_error(path, error) from None


def client(bucket: str, retries: int = _CLIENT_RETRIES) -> S3Store:
    """Return the client of a bucket.

    Raises StudyError if the package obstore is not installed, or if the AWS_* variables describe no store.
    """
    try:
        import obstore  # noqa: F401 - only whether it is installed
    except ImportError:
        raise StudyError(
            f"s3://{bucket} needs the package obstore, which is not installed",
            todo=installing("s3"),
        ) from None
    return _client(bucket, TIMEOUT_SECONDS, retries, tuple(sorted(scan_options().items())))


@functools.cache
def _client(bucket: str, timeout: float, retries: int, environment: tuple[tuple[str, str], ...]) -> S3Store:
    """Return the client for a bucket and the AWS_* variables `environment`.

    Clients are cached, so that later calls use the open connections of an existing client.
    """
    from obstore.store import S3Store

    allow_http = dict(environment).get(_ALLOW_HTTP.lower(), "").lower() in {"1", "true", "yes", "on"}
    options: Any = {
        "timeout": timedelta(seconds=timeout),
        "connect_timeout": timedelta(seconds=min(5.0, timeout)),
        "allow_http": allow_http,
    }
    retry: Any = {"max_retries": retries, "retry_timeout": timedelta(seconds=timeout)}
    try:
        return S3Store(bucket, client_options=options, retry_config=retry)
    except Exception as error:  # noqa: BLE001 - the library raises many types for a wrong setting
        raise StudyError(
            f"the AWS_ environment variables do not describe the store of s3://{bucket}: {type(error).__name__}",
            todo="check AWS_ENDPOINT_URL, AWS_REGION and the other AWS_ variables",
        ) from None


def storage_error(path: S3Path, error: Exception) -> StudyError:
    """Return the StudyError for an error of the store.

    The text of `error` is not shown, because it can quote addresses and headers, which may contain secrets.
    """
    return known_cause(path, error) or StudyError(
        f"{path}: the object store does not answer",
        where=_endpoint(),
        todo="check the network and AWS_ENDPOINT_URL, then run the command again: published results are kept",
        status=1,
    )


def known_cause(path: S3Path, error: Exception) -> StudyError | None:
    """Return the StudyError for an error that a retry cannot remedy.

    Return None for any other error, such as a broken connection.
    """
    text = str(error)
    if "NoSuchBucket" in text:
        what, todo = f"the bucket {path.bucket} does not exist", "create it, or name another bucket"
    elif "169.254.169.254" in text:
        what = f"{path}: found no AWS credentials, and this machine has no role that provides them"
        todo = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    elif type(error).__name__ in {"PermissionDeniedError", "UnauthenticatedError"} or any(
        code in text for code in _REJECTED
    ):
        what = f"{path}: the object store rejects the credentials"
        todo = (
            "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, "
            "and that they may read and write this bucket"
        )
    elif "BadScheme" in text:
        what, todo = f"{path}: plain HTTP is not allowed", f"set {_ALLOW_HTTP}=true"
    else:
        return None
    return StudyError(what, where=_endpoint(), todo=todo, status=1)


def _endpoint() -> str:
    """Return the store's address from the AWS_* environment variables, without a user name and password."""
    environment = driver_environment()
    endpoint = environment.get("AWS_ENDPOINT_URL") or environment.get("AWS_ENDPOINT") or "Amazon's endpoint"
    return endpoint.rpartition("@")[2]
