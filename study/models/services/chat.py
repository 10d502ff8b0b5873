"""Requests to OpenAI-compatible chat endpoints about an image or a text, and the sentences in their answers."""

from __future__ import annotations

import base64
import json
from typing import Any

from study.models.services.reply import Reply, UnexpectedAnswer, parsed
from study.models.services.service_spec import Remote

_TEMPERATURE = 0
_FILTERED = ("content_filter", "content_policy_violation")
"""Values of `code` or `type` in the error that a service sends if its content filter refuses an image."""


def request_object(remote: Remote, question: bytes | str) -> dict[str, Any]:
    """Return the JSON object of a request.

    If `question` is an image (bytes of a PNG), the request has the prompt of the spec and the image. If `question` is a
    text, the request has only this text.
    """
    content: Any = question
    if isinstance(question, bytes):
        url = f"data:image/png;base64,{base64.b64encode(question).decode()}"
        content = [{"type": "text", "text": remote.prompt}, {"type": "image_url", "image_url": {"url": url}}]
    further = {key: value for key, value in ({"temperature": _TEMPERATURE} | remote.extra).items() if value is not None}
    return {"model": remote.model, "messages": [{"role": "user", "content": content}], **further}


def read_sentence(body: str) -> Reply:
    """Return the reply in `body`, the JSON text of an answer: the unchanged sentence, and whether it is a refusal.

    Raises UnexpectedAnswer if `body` is not an answer of a chat endpoint.
    """
    data = parsed(body)
    if is_filtered(data):
        return Reply((), (), "", refused=True)
    try:
        choice = data["choices"][0]
        message = choice["message"]
        refusal, content = message.get("refusal"), message.get("content")
    except (AttributeError, IndexError, KeyError, TypeError):
        raise UnexpectedAnswer("the answer has no message at choices.0.message") from None
    if isinstance(content, list):
        texts = [part.get("text", "") for part in content if isinstance(part, dict)]
        content = "".join(one for one in texts if isinstance(one, str))
    if content is not None and not isinstance(content, str):
        raise UnexpectedAnswer("the answer has content at choices.0.message that is not text")
    if refusal is not None and not isinstance(refusal, str):
        raise UnexpectedAnswer("the answer has a refusal at choices.0.message that is not text")
    sentence = content or refusal or ""
    # Unpaired surrogates are replaced, because JSON can contain them, but UTF-8 and Parquet cannot.
    sentence = sentence.encode("utf-8", "replace").decode()
    filtered = choice.get("finish_reason") == "content_filter"
    return Reply((), (), sentence, refused=bool(refusal) or filtered or not sentence.strip())


def is_filtered(data: Any) -> bool:
    """Return whether `data`, the JSON of an error, says that a filter refused the image.

    A repeated request would be refused too.
    """
    error = data.get("error") if isinstance(data, dict) else None
    return isinstance(error, dict) and any(error.get(key) in _FILTERED for key in ("code", "type"))


def refuses(body: str) -> bool:
    """Return whether `body`, the text of an error, says that a filter refused the image."""
    try:
        return is_filtered(json.loads(body))
    except (ValueError, RecursionError):
        return False
