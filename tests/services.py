"""Services over HTTP while a test lasts, as good or as bad as they are told: one of labels, and one that talks."""

from __future__ import annotations

import base64
import email
import email.policy
import hashlib
import io
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

import numpy as np
from PIL import Image

Classify = Callable[[np.ndarray], Sequence[tuple[str, float]]]

GARBAGE: Mapping[str, bytes] = {
    "text": b"<html>busy</html>",
    "bytes": b"\xff\xfe\x00",
    "path": b'{"outputs": []}',
    "type": b'{"labels": [{"label": 3, "score": 0.5}]}',
    "score": b'{"labels": [{"label": "a", "score": "high"}]}',
    "nan": b'{"labels": [{"label": "a", "score": NaN}]}',
    "endless": b'{"labels": [{"label": "a", "score": 1e999}]}',
    "half": b'{"labels": [{"label": "\\ud800", "score": 1}]}',
    "deep": b"[" * 100_000,
    "large": b'{"labels": [], "more": "' + b"x" * 2**20 + b'"}',
    "short": b'{"labels": []}',
}
"""Answers that are none; `short` is sent with a length that it has not."""


def fingerprint(pixels: np.ndarray) -> str:
    """Of `uint8` pixels (C, H, W)."""
    return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def by_brightness(pixels: np.ndarray) -> list[tuple[str, float]]:
    """Labels that depend on every pixel."""
    share = float(pixels.mean()) / 255
    return [("dark", 1 - share), ("bright", share), (f"sum {int(pixels.sum())}", 0.25)]


@dataclass(frozen=True)
class Request:
    """One request as it came: when on the monotonic clock, its path with the query, headers, and the image in it."""

    time: float
    path: str
    headers: Mapping[str, str]
    body: bytes
    pixels: np.ndarray | None
    image: str | None


@dataclass
class FakeService:
    """While entered, answers at `url`.

    `delay` in seconds before each answer; every `fail_every`-th request gets `status` (with `extra_headers`), every
    `garbage_every`-th the next of `garbage`; after `die_after` answers it stops listening and cuts every connection,
    until `revive`; `trickle` is the time between two bytes of a body, `slow_head` between two of a status line. `find`
    takes the image's base64 out of a JSON object. `requests` are all that came, `answered` counts good answers by
    `fingerprint`, once written out.
    """

    classify: Classify = by_brightness
    delay: float = 0.0
    fail_every: int = 0
    status: int = 503
    extra_headers: Mapping[str, str] = field(default_factory=dict)
    garbage_every: int = 0
    garbage: Sequence[str] = tuple(GARBAGE)
    die_after: int | None = None
    trickle: float = 0.0
    slow_head: float = 0.0
    find: Callable[[dict], str] = lambda whole: whole["image"]
    requests: list[Request] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self._good = 0
        self._kinds = itertools.cycle(self.garbage)

    def __enter__(self) -> FakeService:
        self.revive()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.die()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1/classify"

    @property
    def images(self) -> list[str]:
        """The fingerprints of what came, in order."""
        with self._lock:
            return [request.image for request in self.requests if request.image]

    def revive(self) -> None:
        """Listen (again), on the port that it had."""
        self.die_after, self._good = (None if self._port else self.die_after), 0

        class Handler(_Handler):
            fake = self

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def die(self) -> None:
        """Stop listening; connections that are open are cut when something comes over them."""
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def serve(self, handler: _Handler) -> None:
        came = time.monotonic()
        self.take(handler, handler.rfile.read(int(handler.headers.get("Content-Length", 0))), came)

    def take(self, handler: _Handler, body: bytes, came: float) -> None:
        """Answer a request with this body."""
        pixels = _pixels(body, handler.headers, self.find)
        image = None if pixels is None else fingerprint(pixels)
        with self._lock:
            self.requests.append(Request(came, handler.path, dict(handler.headers), body, pixels, image))
            number = len(self.requests)
            over = self.die_after is not None and self._good >= self.die_after
        if self._server is None or over:
            handler.close_connection = True
            return
        time.sleep(self.delay)
        if self.fail_every and number % self.fail_every == 0:
            handler.answer(b"{}", self.status, self.extra_headers)
        elif self.garbage_every and number % self.garbage_every == 0:
            with self._lock:
                kind = next(self._kinds)
            handler.answer(GARBAGE[kind], length=len(GARBAGE[kind]) + (kind == "short"))
        else:
            self._answer_well(handler, pixels, str(image))

    def body(self, pixels: np.ndarray) -> bytes:
        """The body of a good answer."""
        labels = [{"label": label, "score": score} for label, score in self.classify(pixels)]
        return json.dumps({"labels": labels}).encode()

    def _answer_well(self, handler: _Handler, pixels: np.ndarray | None, image: str) -> None:
        assert pixels is not None, "no image came"
        with self._lock:
            over = self.die_after is not None and self._good >= self.die_after
            self._good += not over
            last = self._good == self.die_after
        if over:
            handler.close_connection = True
            return
        handler.answer(self.body(pixels))
        with self._lock:
            self.answered[image] += 1
        if last:
            self.die()


def _data_url(whole: dict) -> str:
    """The base64 of the image in a request to a chat endpoint."""
    (message,) = whole["messages"]
    url = message["content"][1]["image_url"]["url"]
    kind, _, data = url.partition(",")
    assert kind == "data:image/png;base64"
    return data


@dataclass
class FakeChat(FakeService):
    """A chat endpoint: `say` gives the sentence about an image (None: a refusal by its own mark), `reply` that to a
    text. `texts` are the texts that came, in order; garbage is none of a chat endpoint either."""

    say: Callable[[np.ndarray], str | None] = lambda pixels: "An image."
    reply: Callable[[str], str] = lambda text: "No."
    texts: list[str] = field(default_factory=list)
    find: Callable[[dict], str] = field(default=_data_url)

    @property
    def url(self) -> str:
        return super().url.replace("/v1/classify", "/v1/chat/completions")

    def body(self, pixels: np.ndarray) -> bytes:
        return _message(self.say(pixels))

    def take(self, handler: _Handler, body: bytes, came: float) -> None:
        content = json.loads(body)["messages"][0]["content"]
        if isinstance(content, str):
            with self._lock:
                self.texts.append(content)
            handler.answer(_message(self.reply(content)))
            return
        super().take(handler, body, came)


def _message(sentence: str | None) -> bytes:
    refusal = {"refusal": "I will not say."} if sentence is None else {}
    message = {"role": "assistant", "content": sentence, **refusal}
    return json.dumps({"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeService

    def do_POST(self) -> None:
        self.fake.serve(self)

    def answer(
        self, body: bytes, status: int = 200, more: Mapping[str, str] | None = None, length: int | None = None
    ) -> None:
        headers = {"Content-Type": "application/json", "Content-Length": str(length or len(body)), **(more or {})}
        lines = [f"HTTP/1.1 {status} so", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        self._write("\r\n".join(lines).encode(), self.fake.slow_head)
        self._write(body, self.fake.trickle)
        self.close_connection = length is not None and length != len(body)

    def _write(self, data: bytes, pause: float) -> None:
        for piece in [data[at : at + 1] for at in range(len(data))] if pause else [data]:
            self.wfile.write(piece)
            time.sleep(pause)

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client is gone, or was killed
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        pass


def _pixels(body: bytes, headers: Mapping[str, str], find: Callable[[dict], str]) -> np.ndarray | None:
    kind = headers.get("Content-Type", "")
    if kind == "image/png":
        png = body
    elif kind == "application/json":
        png = base64.b64decode(find(json.loads(body)), validate=True)
    elif kind.startswith("multipart/form-data"):
        whole = email.message_from_bytes(
            b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body, policy=email.policy.HTTP
        )
        (part,) = whole.iter_parts()
        assert part.get_content_type() == "image/png"
        png = part.get_payload(decode=True)
    else:
        return None
    opened = np.asarray(Image.open(io.BytesIO(png)))
    return opened[None] if opened.ndim == 2 else opened.transpose(2, 0, 1)
