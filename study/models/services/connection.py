"""One connection to a service: an image out as PNG, an answer back before its time is up."""

from __future__ import annotations

import base64
import importlib
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.models.services.service_spec import Remote


class Wire:
    """One thread's connection to a service, which is cut when a request's time is up.

    The time limit of a socket starts anew with every byte, so that a slow trickle would never reach it.
    """

    def __init__(self) -> None:
        self.session = importlib.import_module("requests").Session()
        self.broken: type[Exception] = importlib.import_module("urllib3").exceptions.HTTPError
        self.session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._lock = threading.Lock()
        self._open: Any = None
        self._running: object = None
        self.late = False
        for adapter in self.session.adapters.values():
            self._watch(adapter.poolmanager)
            through = adapter.proxy_manager_for
            adapter.proxy_manager_for = lambda *given, _of=through, **more: self._watch(_of(*given, **more))

    def _watch(self, manager: Any) -> Any:
        """Have the connections that a pool manager of urllib3 opens made known here."""
        if not hasattr(manager, "watched_by_study"):
            classes = manager.pool_classes_by_scheme.items()
            manager.pool_classes_by_scheme = {scheme: self._watched(pool) for scheme, pool in classes}
            manager.watched_by_study = True
        return manager

    def _watched(self, pool: Any) -> Any:
        def connect(connection: Any) -> None:
            pool.ConnectionCls.connect(connection)
            with self._lock:
                self._open = connection.sock
                self._cut_if_late()

        connection = type(pool.ConnectionCls.__name__, (pool.ConnectionCls,), {"connect": connect})
        return type(pool.__name__, (pool,), {"ConnectionCls": connection})

    def post(self, remote: Remote, png: bytes, sign: Callable[[Any], Any], query: Mapping[str, str]) -> Any:
        """Send one image; the response, with its body still unread. `sign` adds what goes into the headers."""
        content: dict[str, Any]
        if remote.send == "png":
            content = {"data": png, "headers": {"Content-Type": "image/png"}}
        elif remote.send == "json":
            whole = remote.object_with(base64.b64encode(png).decode())
            content = {"data": json.dumps(whole).encode(), "headers": {"Content-Type": "application/json"}}
        else:
            content = {"files": {remote.field: ("image.png", png, "image/png")}, "headers": {}}
        # Identity: a few compressed bytes can unfold to gigabytes.
        content["headers"] |= {"Accept": "application/json", "Accept-Encoding": "identity", **remote.headers}
        # Given an `auth`, requests does not look for passwords in ~/.netrc.
        return self.session.post(
            remote.url, params=query, auth=sign, timeout=remote.timeout, allow_redirects=False, stream=True, **content
        )

    @contextmanager
    def limited(self, seconds: float) -> Iterator[None]:
        request = object()
        self._running, self.late = request, False
        timer = threading.Timer(seconds, self._time_is_up, [request])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with self._lock:
                self._running = None

    def _time_is_up(self, request: object) -> None:
        with self._lock:
            if self._running is request:
                self.late = True
                self._cut_if_late()

    def _cut_if_late(self) -> None:
        if self.late and self._open is not None:
            with suppress(OSError):  # it may be closed already
                socket.socket.shutdown(self._open, socket.SHUT_RDWR)


def png_of(image: NDArray[np.uint8]) -> bytes:
    """One `uint8` image (C, H, W) as PNG, grey where it has one channel and RGB where it has three."""
    from PIL import Image

    rows, written = np.ascontiguousarray(image.transpose(1, 2, 0)), io.BytesIO()
    Image.fromarray(rows[..., 0] if len(image) == 1 else rows).save(written, "PNG")
    return written.getvalue()


def retry_after(text: str) -> float:
    """Seconds until the time that a header names, in seconds or as a date; 0 where it names none."""
    if text.isascii() and text.strip().isdecimal():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError):
        return 0.0
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def reason_of(error: BaseException) -> str:
    """Why a connection failed, in words that hold no address and so no credential."""
    kinds: set[str] = set()
    said = ""
    inner: BaseException | None = error
    while inner is not None:
        kinds.update(kind.__name__ for kind in type(inner).__mro__)
        said = (isinstance(inner, OSError) and isinstance(inner.strerror, str) and inner.strerror) or said
        inner = inner.__cause__ or inner.__context__
    if "ProxyError" in kinds:
        return "the proxy cannot be reached"
    if "SSLError" in kinds:
        return "the encrypted connection was refused, or its certificate is not accepted"
    if said:
        return f"the connection failed: {said}"
    return "no answer in time" if "Timeout" in kinds else "the connection broke off"
