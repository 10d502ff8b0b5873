"""Send one request to a service, with an image as PNG or with a text, and read the answer within a time limit."""

from __future__ import annotations

import asyncio
import base64
import functools
import io
import json
import os
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import urlencode

import httpx
import numpy as np
from numpy.typing import NDArray

from study.errors import StudyError
from study.models.services import chat
from study.models.services.credentials import Secret
from study.models.services.reply import Reply, UnexpectedAnswer, read
from study.models.services.service_spec import Remote

LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy", "httpcore.socks")
"""The names of the loggers of the HTTP libraries, which log addresses and headers."""

_MAX_ANSWER_BYTES = 2**20
_RETRIED = (408, 425, 429)
_STATUS_ADVICE = {
    404: "check that url is the whole address, with its path",
    413: "reduce images.size, or ask the service for a higher limit: the images are too large for it",
    415: "correct send (png, json or form): the service takes images in another form",
}


_CHAT_ADVICE = {
    400: "compare model and extra with what the service documents; `extra: {temperature: null}` leaves that key out",
    404: "check that url is the whole address, which ends in /chat/completions, and that the model exists there",
    413: "reduce images.size, or ask the service for a higher limit: the images are too large for it",
}


class RequestFailed(Exception):
    """A request failed, but a repeated request may succeed.

    `wait` is the pause in seconds that the service asked for. If `final` is true, no further attempt is made.
    """

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.wait = reason, wait
        self.final = False


def http_client() -> httpx.AsyncClient:
    """Return a client that follows no redirects, keeps no cookies and sets no time limit of its own."""
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return httpx.AsyncClient(verify=_tls(), cookies=no_cookies, timeout=None, follow_redirects=False)


@functools.cache
def _tls() -> ssl.SSLContext:
    """Return the TLS settings of this process. They are read only once, because reading takes half a second."""
    return httpx.create_ssl_context()


def read_answer(body: str, remote: Remote) -> Reply:
    """Return the reply in the answer `body` of a service. Raises UnexpectedAnswer if `body` does not fit the spec."""
    return chat.read_sentence(body) if remote.api == "chat" else read(body, remote)


async def send(
    client: httpx.AsyncClient, name: str, remote: Remote, question: bytes | str, secret: Secret | None
) -> str:
    """Send one image (as PNG) or one text, and return the text of the answer, in which the credential is hidden.

    The answer fits the spec. The time limit of the spec covers the whole exchange, because a limit for each read would
    not end a very slow answer. Raises RequestFailed if a repeated request may succeed, and StudyError if a repeated
    request would fail too.
    """
    url, headers, content = _request(remote, question, secret)
    try:
        async with asyncio.timeout(remote.timeout), client.stream("POST", url, headers=headers, **content) as response:
            # If the content filter of a chat service refuses an image, the status is 400, and the text of this error
            # counts as the answer.
            refusal = remote.api == "chat" and response.status_code == 400
            if not refusal:
                _check_status(response, name, remote, secret)
            body = b""
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > _MAX_ANSWER_BYTES:
                    raise RequestFailed("the answer is larger than 1 MiB")
            if refusal and not chat.refuses(body.decode("utf-8", "replace")):
                _check_status(response, name, remote, secret)
    except TimeoutError:
        raise RequestFailed(f"no whole answer within {remote.timeout:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise RequestFailed(_reason(error)) from None
    try:
        text = body.decode("utf-8-sig")
        text = secret.hide(text) if secret else text
        read_answer(text, remote)
    except UnicodeDecodeError:
        raise RequestFailed("the answer is not JSON") from None
    except UnexpectedAnswer as error:
        raise RequestFailed(str(error)) from None
    return text


def _request(remote: Remote, question: bytes | str, secret: Secret | None) -> tuple[str, httpx.Headers, dict[str, Any]]:
    """Return the address, the headers and the content of a request."""
    content: dict[str, Any]
    url, credentials = remote.url, remote.credentials
    # Compressed answers are not accepted, because a few compressed bytes can expand to gigabytes.
    headers = httpx.Headers({"Accept": "application/json", "Accept-Encoding": "identity"})
    if remote.api == "chat":
        content = {"content": json.dumps(chat.request_object(remote, question)).encode()}
        headers["Content-Type"] = "application/json"
    else:
        assert isinstance(question, bytes), "services of labels are sent images"
        content = _image(remote, question, headers)
    headers.update(remote.headers)
    if secret is not None and credentials is not None:
        if credentials.header is not None:
            headers[credentials.header] = credentials.prefix + secret.reveal()
        elif credentials.query is not None:
            url += ("&" if "?" in url else "?") + urlencode({credentials.query: secret.reveal()})
    return url, headers, content


def _image(remote: Remote, png: bytes, headers: httpx.Headers) -> dict[str, Any]:
    """Return the content of a request about an image, for `api: labels`.

    The content's type is added to `headers`, except for a form, whose type httpx adds.
    """
    if remote.send == "png":
        headers["Content-Type"] = "image/png"
        return {"content": png}
    if remote.send == "json":
        headers["Content-Type"] = "application/json"
        return {"content": json.dumps(remote.object_with(base64.b64encode(png).decode())).encode()}
    return {"files": {remote.field: ("image.png", png, "image/png")}}


def _check_status(response: httpx.Response, name: str, remote: Remote, secret: Secret | None) -> None:
    status = response.status_code
    if 200 <= status < 300:
        return
    if status >= 500 or status in _RETRIED:
        raise RequestFailed(f"it answered with status {status}", retry_after(response.headers.get("Retry-After", "")))
    what = f"{name} at {remote.address} answered with status {status}"
    if 300 <= status < 400:
        target = response.headers.get("Location", "").partition("?")[0][:200]
        target = secret.hide(target) if secret else target
        what += f", a redirect to {target or 'no address'}"
        todo = "if you trust the address of the redirect, write it as url: it would receive the credential"
    elif status in (401, 403) and remote.credentials is None:
        todo = "add `credentials: {env: NAME}` to the service (or to its judge, if a judge with its own url answered)"
    elif status in (401, 403) and remote.credentials is not None:
        todo = f"check that the environment variable {remote.credentials.env} holds a valid credential"
    else:
        advice = _CHAT_ADVICE if remote.api == "chat" else _STATUS_ADVICE
        todo = advice.get(
            status, "compare url, extra, headers and (with api: labels) send and field with its documentation"
        )
    raise StudyError(what, todo=todo, status=1)


def png_of(image: NDArray[np.uint8]) -> bytes:
    """Encode one `uint8` image (C, H, W) as PNG: grey for one channel, RGB for three."""
    from PIL import Image

    rows, written = np.ascontiguousarray(image.transpose(1, 2, 0)), io.BytesIO()
    Image.fromarray(rows[..., 0] if len(image) == 1 else rows).save(written, "PNG")
    return written.getvalue()


def retry_after(text: str) -> float:
    """Return the seconds until the time in a Retry-After header (seconds or a date); 0 if the header has no time."""
    if text.isascii() and text.strip().isdecimal():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError):
        return 0.0
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _reason(error: BaseException) -> str:
    """Return in words why a connection failed, without the address, because the address may contain a credential."""
    causes: list[BaseException] = []
    inner: BaseException | None = error
    while inner is not None:
        causes.append(inner)
        inner = inner.exceptions[0] if isinstance(inner, BaseExceptionGroup) else inner.__cause__ or inner.__context__
    if any(isinstance(cause, httpx.ProxyError) for cause in causes):
        return "the proxy refused the connection"
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return "the TLS connection was refused, or its certificate is not accepted"
    # For connection errors, `strerror` cannot be used, because asyncio writes the host and the port into it.
    messages = [
        os.strerror(cause.errno) if isinstance(cause, ConnectionError) and cause.errno else cause.strerror
        for cause in causes
        if isinstance(cause, OSError) and isinstance(cause.strerror, str)
    ]
    return f"the connection failed: {messages[-1]}" if messages else "the connection broke off"
