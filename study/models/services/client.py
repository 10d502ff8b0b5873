"""Asking a black box behind HTTP about images: no faster than it allows, again where it fails, and never twice."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import numpy as np
from numpy.typing import NDArray

from study.errors import StudyError
from study.events.repairs import repaired
from study.models.services.answers import Answers, NotPromised, Reply, read
from study.models.services.connection import Wire, png_of, reason_of, retry_after
from study.models.services.service_spec import Credentials, Remote
from study.process.interrupt import Interrupted
from study.reproducibility.hashing import digest

_MOST_BYTES = 2**20
_LOOK_SECONDS = 0.1
_MAY_PASS = (408, 425, 429)


class Secret:
    """The value of a credential. It survives pickling, and shows itself to none but who asks for it by `reveal`."""

    def __init__(self, value: str) -> None:
        self._value = value

    @classmethod
    def from_environment(cls, credentials: Credentials) -> Secret:
        """StudyError, which names the variable and not its value, where it is unset, empty or not one line of text."""
        value = os.environ.get(credentials.env, "")
        if not value:
            problem = "empty" if credentials.env in os.environ else "not set"
            raise StudyError(
                f"the environment variable {credentials.env} is {problem}, and a service's credential is read from it",
                todo=f"export {credentials.env}=…",
            )
        if not (value.isascii() and value.isprintable() and value == value.strip()):
            raise StudyError(
                f"the environment variable {credentials.env} holds no credential",
                accepted="printable ASCII in one line, without space around it",
            )
        return cls(value)

    def reveal(self) -> str:
        return self._value

    def hide(self, text: str) -> str:
        """`text` with *** wherever the value stands in it, plain or as addresses and JSON spell it."""
        spelled = (self._value, quote(self._value, safe=""), quote_plus(self._value), json.dumps(self._value)[1:-1])
        for one in sorted(set(spelled), key=len, reverse=True):
            text = text.replace(one, "***")
        return text

    def filter(self, record: logging.LogRecord) -> bool:
        """As a filter of a logger: urllib3 logs whole addresses."""
        hidden = self.hide(record.getMessage())
        if hidden != record.getMessage():
            record.msg, record.args, record.exc_info = hidden, None, None
        return True

    def __repr__(self) -> str:
        return "Secret(***)"


class _Failed(Exception):
    """One attempt failed, and another may not. `wait` is how many seconds the service asked to be left alone."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.wait = reason, wait


class _Pacer:
    """Gives every request of every thread its turn, 1 / `rate` seconds apart."""

    def __init__(self, rate: float) -> None:
        self._gap = 1 / rate
        self._next = 0.0
        self._lock = threading.Lock()

    def turn(self, halt: threading.Event) -> bool:
        """Waits for it; false where `halt` came first."""
        with self._lock:
            at = max(time.monotonic(), self._next)
            self._next = at + self._gap
        return _waited(at - time.monotonic(), halt)


class Service:
    """One service, asked by one process. Its answers are kept in the file `cache`, and none is asked for twice.

    `asked` counts requests that were sent, `kept` the images whose answers were there already.
    """

    def __init__(self, name: str, remote: Remote, *, secret: Secret | None, cache: Path) -> None:
        """StudyError where the kept answers are damaged, or a credential is needed and not given."""
        if remote.credentials is not None and secret is None:
            raise StudyError(f"{name} needs a credential", todo=f"export {remote.credentials.env}=…")
        self.asked = self.kept = 0
        self._name, self._remote, self._secret = name, remote, secret
        self._answers = Answers(cache)
        self._pacer = _Pacer(remote.rate)
        self._threads = ThreadPoolExecutor(remote.parallel, thread_name_prefix=f"service-{name}")
        self._of_thread = threading.local()
        self._alone, self._counting = threading.Lock(), threading.Lock()
        self._down = False
        if secret is not None:
            logging.getLogger("urllib3.connectionpool").addFilter(secret)

    def describe(self) -> dict[str, Any]:
        """What is recorded of the service with a run."""
        fields = {key: getattr(self._remote, key) for key in ("send", "field", "labels", "top")}
        return {"remote": self._remote.address, **fields, "digest": self._remote.digest}

    def ask(self, images: NDArray[np.uint8], stop: Callable[[], bool] = lambda: False) -> list[Reply]:
        """The replies to `images`, `uint8` (N, C, H, W) with one channel or three, in their order.

        Every answer is on the disk before it is used. Once an image has failed as often as it may, no further one is
        begun, and a service that has failed so is tried once for an image, until it answers again. Raises StudyError
        then, and at once where asking again would not help; Interrupted once `stop` says so. Requests under way are
        waited for, since their answers may have cost money.
        """
        with self._alone:
            questions = [self._question(image) for image in images]
            open_ones = {one: image for one, image in zip(questions, images, strict=True)}  # noqa: C416
            bodies = {one: body for one in open_ones if (body := self._answers.get(one)) is not None}
            self.kept += len(bodies)
            halt = threading.Event()
            errors: list[StudyError] = []
            futures = [
                self._threads.submit(self._settle, one, image, halt, errors)
                for one, image in open_ones.items()
                if one not in bodies
            ]
            stopped = False
            try:
                running = set(futures)
                while running:
                    _, running = wait(running, timeout=_LOOK_SECONDS)
                    if not stopped and stop():
                        stopped = True
                        halt.set()
            finally:
                halt.set()
                wait(futures)
            for future in futures:
                bodies.update(future.result())
            if errors:
                kept = f"{len(bodies)} of {len(open_ones)} answers are kept, and will not be asked for again"
                raise StudyError(f"{errors[0].what}; {kept}", todo=errors[0].todo, status=1) from None
            if stopped and len(bodies) < len(open_ones):
                raise Interrupted
            return [self._read(bodies[one]) for one in questions]

    def _settle(
        self, question: str, image: NDArray[np.uint8], halt: threading.Event, errors: list[StudyError]
    ) -> dict[str, str]:
        """The answer to one question, kept; nothing, where `halt` came first, or where it failed: see `errors`."""
        try:
            body = self._persist(png_of(image), halt)
            if body is None:
                return {}
            self._answers.keep(question, body)
            return {question: self._answers.get(question) or body}
        except StudyError as error:
            errors.append(error)
            halt.set()
            return {}

    def _persist(self, png: bytes, halt: threading.Event) -> str | None:
        """Attempts until one succeeds or all have failed; none once `halt` is set."""
        remote, attempt = self._remote, 0
        while not halt.is_set() and self._pacer.turn(halt):
            attempt += 1
            was_down = self._down
            try:
                body = self._attempt(png)
            except _Failed as failed:
                if (was_down and self._down) or attempt >= remote.attempts:
                    self._down = True
                    raise self._gave_up(attempt, failed.reason) from None
                repaired("service", f"{self._name} is asked again about an image: {failed.reason}")
                usual = min(remote.backoff * 2.0 ** (attempt - 1), remote.most_wait) * random.uniform(0.75, 1)
                _waited(max(usual, min(failed.wait, remote.most_wait)), halt)
            else:
                # An answer to what was sent before the service was held to be down says nothing of it now.
                self._down = self._down and not was_down
                return body
        return None

    def _attempt(self, png: bytes) -> str:
        """One request and its whole answer. _Failed where another may do better, StudyError where none would."""
        if not hasattr(self._of_thread, "wire"):
            self._of_thread.wire = Wire()
        wire: Wire = self._of_thread.wire
        with self._counting:
            self.asked += 1
        named = self._remote.credentials and self._remote.credentials.query
        query = {named: self._secret.reveal()} if self._secret and named else {}
        remote, late = self._remote, _Failed(f"no whole answer within {self._remote.timeout:g} s")
        try:
            with wire.limited(remote.timeout):
                response = wire.post(remote, png, self._sign, query)
                with response:
                    self._check(response)
                    body = response.raw.read(_MOST_BYTES + 1, decode_content=False)
                    whole = response.headers.get("Content-Length", str(response.raw.tell()))
        except (OSError, HTTPException, wire.broken) as error:
            raise late if wire.late else _Failed(reason_of(error)) from None
        if wire.late:
            raise late
        if len(body) > _MOST_BYTES:
            raise _Failed("the answer is larger than 1 MiB")
        if whole != str(len(body)):
            raise _Failed("the answer broke off")
        try:
            text = body.decode("utf-8-sig")
            text = self._secret.hide(text) if self._secret else text
            read(text, remote)
        except UnicodeDecodeError:
            raise _Failed("the answer is not JSON") from None
        except NotPromised as error:
            raise _Failed(str(error)) from None
        return str(text)

    def _sign(self, request: Any) -> Any:
        credentials = self._remote.credentials
        if self._secret is not None and credentials is not None and credentials.header is not None:
            request.headers[credentials.header] = credentials.prefix + self._secret.reveal()
        return request

    def _check(self, response: Any) -> None:
        status = int(response.status_code)
        if 200 <= status < 300:
            return
        if status >= 500 or status in _MAY_PASS:
            raise _Failed(f"it answered with status {status}", retry_after(response.headers.get("Retry-After", "")))
        what = f"{self._name} at {self._remote.address} answered with status {status}"
        if 300 <= status < 400:
            elsewhere = str(response.headers.get("Location", "")).partition("?")[0][:200]
            elsewhere = self._secret.hide(elsewhere) if self._secret else elsewhere
            what += f", which sends it on to {elsewhere or 'nowhere'}"
            todo = "write the address that it is sent on to as url, if you trust it: it would get the credential"
        elif status in (401, 403):
            credentials = self._remote.credentials
            todo = "give it credentials: {env: NAME}"
            if credentials is not None:
                todo = f"see that the environment variable {credentials.env} holds a credential that is valid there"
        else:
            todo = _ADVICE.get(status, "compare url, send, field, extra and headers with what the service asks for")
        raise StudyError(what, todo=todo, status=1)

    def _gave_up(self, attempts: int, reason: str) -> StudyError:
        tries = f"{attempts} times" if attempts > 1 else "once"
        return StudyError(
            f"{self._name} at {self._remote.address} was asked {tries} for one image and failed: {reason}",
            todo="see that the service is up and launch again, or let it have more attempts, timeout or most_wait",
            status=1,
        )

    def _read(self, body: str) -> Reply:
        try:
            return read(body, self._remote)
        except NotPromised as error:
            raise StudyError(
                f"an answer of {self._name} that was kept cannot be read: {error}",
                todo="see that the paths labels and scores fit its answers",
                status=1,
            ) from None

    def _question(self, image: NDArray[np.uint8]) -> str:
        """What an answer is kept under. Of the pixels: the same image has other bytes as PNG where zlib is another."""
        remote, pixels = self._remote, hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
        headers = {name.lower(): value for name, value in remote.headers.items()}
        return digest("question", image.shape, pixels, remote.url, remote.send, remote.field, remote.extra, headers)


_ADVICE = {
    404: "see that url is the whole address, with its path",
    413: "images are too large for it: set images.size, or ask for a higher limit",
    415: "it takes images in another form: send: png, json or form",
}


def _waited(seconds: float, halt: threading.Event) -> bool:
    return not halt.wait(min(max(seconds, 0.0), threading.TIMEOUT_MAX))
