"""The spec of a service that answers about images over HTTP: address, credential, format of requests and answers."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import ConfigDict, Field, field_validator, model_validator

from study.errors import StudyError
from study.models.services.label_names import normalised, read_own_names
from study.models.services.refusals import REFUSALS
from study.reproducibility.hashing import digest
from study.spec.frozen import Frozen, rejected
from study.spec.shorthand import TEXT, Names, also

_SECRET_WORDS = ("token", "secret", "key", "password", "passwd", "auth", "cookie", "credential", "signature")
"""Words that mark a value as a secret if they occur in the name of a header, or in a key of an address."""
_SECRET_FIELDS = re.compile(r"((api|access|secret|private)?key|(access|auth|api)?token|(client)?secret|password)")
_SET_BY_CLIENT = re.compile(r"content-(type|length|encoding)|(transfer|accept)-encoding|host|connection")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_ADVICE = "credentials: {env: NAME}; the value is read from the environment and stored nowhere"
_OF_LABELS = ("send", "field", "labels", "scores", "top")
_OF_CHAT = ("model", "prompt", "judge")
_QUESTION = (
    "An image was described as follows.\n\n{answer}\n\nDoes the description say that the image shows: {label}? "
    "A more general word is not enough. Reply with one word, yes or no."
)

Seconds = Annotated[float, Field(gt=0, le=3600)]
Header = Annotated[str, Field(max_length=8000)]
OwnNames = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]


class Credentials(Frozen):
    """Where the credential of a service comes from, and how it is sent. The spec never contains the credential itself.

    `env` is the name of an environment variable, whose value is the credential. The credential is sent in the header
    `header`, after the text `prefix` (default: "Bearer " for Authorization, empty for other headers). With `query`, the
    credential is sent in the address instead, as the value of the key `query`.
    """

    env: str
    header: str | None = None
    prefix: str = ""
    query: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, given: Any) -> Any:
        if isinstance(given, cls):
            return given
        if not isinstance(given, dict):
            raise rejected("a spec cannot contain a credential itself", "{env: NAME, header: …, prefix: …}")
        env = given.get("env", "_")
        if not isinstance(env, str) or not re.fullmatch(r"[A-Za-z_]\w*", env, re.ASCII):
            raise rejected(
                "`env` is not a valid name of an environment variable", "letters, digits and _, such as SERVICE_TOKEN"
            )
        if given.get("query") is not None:
            return given
        header = given.get("header") or "Authorization"
        usual = "Bearer " if isinstance(header, str) and header.lower() == "authorization" else ""
        return {"prefix": usual} | given | {"header": header}

    @model_validator(mode="after")
    def _header_or_query(self) -> Credentials:
        if self.query is not None and (self.header is not None or self.prefix):
            raise rejected(
                "a credential is sent in a header or in the address, not in both", "header and prefix, or query"
            )
        if self.query == "" or (self.header is not None and not _HEADER.fullmatch(self.header)):
            raise rejected(
                "`header` or `query` of the credential is not a valid name", "header: Authorization, or query: key"
            )
        if not (self.prefix.isascii() and self.prefix.isprintable()):
            raise rejected("the prefix of a credential is not plain text", 'printable ASCII, such as "Bearer "')
        return self


class Judge(Frozen):
    """How the sentences of a chat service are judged: which labels an answer names.

    Without `model`, an answer names a label if it contains one of the label's words, or one of the further names that
    the service's `names` has for the label. Only whole words count, in upper or lower case, singular or plural. If such
    words overlap, only those that begin first count, and of these only the longest ("hot dog" does not name the label
    dog).

    With `model`, a second chat model decides whether the answer names the true label or the target label. `url` is the
    address of this model (default: the address of the service, with the service's credentials). `prompt` is the
    question to this model, in which `{answer}` and `{label}` are replaced. The model must reply yes or no. `extra` has
    further keys of the request, and `most` is the largest number of requests to this model.

    An empty answer is a refusal. An answer that names no label and contains one of the phrases `refusals` is also a
    refusal. A refusal never counts as a success of an attack.
    """

    model: str | None = None
    prompt: str | None = None
    url: str | None = None
    credentials: Credentials | None = None
    extra: dict[str, Any] = Field(default_factory=dict)
    most: Annotated[int, Field(ge=1)] | None = None
    refusals: Annotated[tuple[str, ...], Field(strict=False)] = REFUSALS

    model_config = ConfigDict(json_schema_extra=also({"const": "keywords"}))

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        if given == "keywords":
            return {}
        if isinstance(given, dict) and given.get("model") and given.get("prompt") is None:
            return given | {"prompt": _QUESTION}
        return given

    @model_validator(mode="after")
    def _consistent(self) -> Judge:
        if self.model == "":
            raise rejected("the model of a judge has an empty name", "model: <name>, or `judge: keywords`")
        if self.model is None and (self.prompt or self.url or self.credentials or self.extra or self.most):
            raise rejected(
                "a judge without a model takes no prompt, url, credentials, extra or most",
                "model: <name>, or `judge: keywords`",
            )
        if self.prompt is not None and not ("{answer}" in self.prompt and "{label}" in self.prompt):
            raise rejected(
                "the prompt of a judge lacks {answer} or {label}",
                "a question with {answer} and {label} that asks for yes or no",
            )
        if self.url is not None:
            _checked_address(self.url)
        _check_keys_of_requests(self.extra, chat=True)
        if any(not phrase.strip() for phrase in self.refusals):
            raise rejected("`refusals` has an empty phrase", "phrases such as: i cannot help")
        return self


class Remote(Frozen):
    """A service that answers about images over HTTP.

    With `api: labels` (the default), the service is a classifier, and its answer has labels. With `api: chat`, the
    service is an OpenAI-compatible endpoint, which answers a question about the image in sentences.

    `send` says how the image is sent: as PNG in the body (`png`), in base64 in a JSON object with the keys of `extra`
    (`json`), or as a file in a form (`form`). `field` is the image's name in the form or in the JSON object. In the
    JSON object, `field` may be a path, such as inputs.0.data.image.base64.

    `labels` and `scores` are paths in the JSON answer: keys and list positions joined by dots, with `*` for every
    element. The study uses the `top` labels with the highest scores, or the first `top` labels if `scores` is null.
    `names` maps labels of the study to the service's own names, or is the path of a YAML, JSON or CSV file with this
    mapping. The names of all other labels are the words of the label set.

    With `api: chat`, `url` ends in /chat/completions, `model` is the name of the model at this address, and `prompt` is
    the text before the image. The image is sent as a data URL with a PNG, and the temperature is 0. `extra` has further
    keys of the request, such as max_tokens. `extra` can also change the temperature, or leave it out (null). `judge`
    says how the labels in a sentence are found. The names of a label are those in `names` and also the words of the
    label set.

    `rate` is the largest number of requests per second. `parallel` is the largest number of requests at the same time.
    `timeout` is the time limit in seconds for a complete answer. A failed request is repeated until it was sent
    `attempts` times. The first pause is about `backoff` seconds. Each further pause is about twice as long, or as long
    as the service asks, up to `most_wait` seconds.

    `most` is the largest number of requests for the whole run folder. Each request is counted before it is sent. A
    launch that may need more requests than `most` sends no request at all.

    `queries` is the largest number of adversarial images that an attack run may show to the service for each clean
    image. The images of the run's checkpoints and budgets are shown one after the other, until the attack succeeds.
    """

    url: str
    api: Literal["labels", "chat"] = "labels"
    model: str | None = None
    prompt: str | None = None
    judge: Judge | None = None
    send: Literal["png", "json", "form"] = "png"
    field: str = "image"
    extra: dict[str, Any] = Field(default_factory=dict)
    headers: dict[str, Header] = Field(default_factory=dict)
    credentials: Credentials | None = None
    labels: str = "labels.*.label"
    scores: str | None = "labels.*.score"
    top: Annotated[int, Field(ge=1, le=100)] = 5
    names: dict[str, OwnNames] = Field(default_factory=dict)
    rate: Annotated[float, Field(gt=0, le=100_000)] = 5.0
    parallel: Annotated[int, Field(ge=1, le=256)] = 4
    timeout: Seconds = 30.0
    attempts: Annotated[int, Field(ge=1, le=100)] = 5
    backoff: Seconds = 0.5
    most_wait: Seconds = 60.0
    most: Annotated[int, Field(ge=1)] | None = None
    queries: Annotated[int, Field(ge=1)] | None = None

    model_config = ConfigDict(json_schema_extra=also(TEXT))

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return {"url": given} if isinstance(given, str) else given
        if given.get("api", "labels") not in ("labels", "chat"):
            return given
        chat = given.get("api") == "chat"
        foreign = [key for key in (_OF_LABELS if chat else _OF_CHAT) if given.get(key) is not None]
        if chat and foreign and all(given[key] == cls.model_fields[key].default for key in foreign):
            foreign = []  # a resolved spec has every key
        if foreign:
            raise rejected(
                f"the key '{foreign[0]}' does not apply to `api: {'chat' if chat else 'labels'}`",
                "a key of api: chat" if chat else "api: chat",
            )
        return given | {"judge": given.get("judge") or {}} if chat else given

    @field_validator("url", mode="after")
    @classmethod
    def _address(cls, url: str) -> str:
        return _checked_address(url)

    @field_validator("headers", mode="before")
    @classmethod
    def _plain_headers(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        for name, value in given.items():
            if not isinstance(name, str) or not _HEADER.fullmatch(name):
                raise rejected("`headers` has a name that is not valid in HTTP", "letters, digits and -")
            if _carries_secrets(name):
                raise rejected(f"the header '{name}' looks like a credential", f"{_ADVICE}; header: {name}")
            if _SET_BY_CLIENT.fullmatch(name.lower()):
                raise rejected(f"the header '{name}' is set by the HTTP client", "headers that the service defines")
            if isinstance(value, str) and not (value.isascii() and value.isprintable() and value == value.strip()):
                raise rejected(
                    f"the header '{name}' is not one line of plain text", "printable ASCII, no spaces at the ends"
                )
        if len({name.lower() for name in given}) < len(given):
            raise rejected("`headers` has the same name twice", "each name once; upper and lower case count as equal")
        return given

    @field_validator("labels", "scores", mode="after")
    @classmethod
    def _path(cls, path: str | None) -> str | None:
        if path is not None and not all(path.split(".")):
            raise rejected(f"'{path}' is not a valid path", "keys and list positions joined by dots: labels.*.label")
        return path

    @field_validator("names", mode="before", json_schema_input_type=dict[str, Names] | str)
    @classmethod
    def _names(cls, given: Any) -> Any:
        try:
            given = read_own_names(Path(given)) if isinstance(given, str) else given
        except StudyError as error:
            accepted = error.accepted or "a mapping of labels to names"
            raise rejected(f"{error.what} ({error.where})" if error.where else error.what, accepted) from None
        if not isinstance(given, dict):
            return given
        return {str(label): [own] if isinstance(own, str) else own for label, own in given.items()}

    @model_validator(mode="after")
    def _consistent(self) -> Remote:
        if self.api == "chat" and not (self.model and self.prompt):
            raise rejected(
                "a chat service needs a model and a prompt", 'model: <name>, prompt: "Name the main object."'
            )
        if any(not normalised(name) for own in self.names.values() for name in own):
            raise rejected("`names` has an empty name", "label: name, or label: [name, name]")
        if self.credentials and (self.credentials.header or "").lower() in {name.lower() for name in self.headers}:
            raise rejected(f"the header '{self.credentials.header}' is set twice", "the header in credentials only")
        if not self.field or not self.field.isprintable():
            raise rejected("`field` is empty or not printable", "the name under which the image is sent")
        if self.extra and self.send != "json" and self.api == "labels":
            raise rejected("`extra` needs requests in JSON", "send: json")
        self._check_extra()
        return self

    def _check_extra(self) -> None:
        _check_keys_of_requests(self.extra, chat=self.api == "chat")
        if self.api == "labels" and self.send == "json":
            try:
                self.object_with("")
            except ValueError:
                accepted = "a path that extra does not occupy: image, or inputs.0.data.image.base64"
                raise rejected(f"the image cannot be placed at '{self.field}' in the JSON object", accepted) from None

    def object_with(self, image: str) -> dict[str, Any]:
        """Return the JSON object of a request: `extra` with `image` at the path `field`.

        Raises ValueError if `extra` already has a value at this path, or if the path does not fit `extra`.
        """
        whole: dict[str, Any] = copy.deepcopy(self.extra)
        at: Any = whole
        parts = self.field.split(".")
        for depth, part in enumerate(parts):
            last = depth + 1 == len(parts)
            fresh: Any = image if last else [] if parts[depth + 1].isdecimal() else {}
            if isinstance(at, list) and part.isdecimal() and int(part) == len(at):
                at.append(fresh)
            elif isinstance(at, dict) and part not in ("", "*") and part not in at:
                at[part] = fresh
            elif last or not isinstance(at, list | dict):
                raise ValueError(part)
            if isinstance(at, list) and not (part.isdecimal() and int(part) < len(at)):
                raise ValueError(part)
            at = at[int(part)] if isinstance(at, list) else at[part]
        return whole

    @property
    def address(self) -> str:
        """The address without its query, for messages and records."""
        return self.url.partition("?")[0]

    @property
    def judging(self) -> Remote | None:
        """The chat service that judges the sentences of this service; None if keywords judge them."""
        judge = self.judge
        if judge is None or judge.model is None:
            return None
        own = self if judge.url is None else None
        return self.model_copy(
            update={
                "url": judge.url or self.url,
                "model": judge.model,
                "extra": judge.extra,
                "headers": self.headers if own else {},
                "credentials": judge.credentials or (self.credentials if own else None),
                "judge": Judge(),
                "most": judge.most,
                "queries": None,
            }
        )

    @property
    def digest(self) -> str:
        """The SHA-256 of the fields that determine answers. Headers, limits, judge and credential are left out."""
        if self.api == "chat":
            return digest("remote", self.url, self.api, self.model, self.prompt, self.extra)
        return digest("remote", self.url, self.send, self.field, self.extra, self.labels, self.scores, self.top)


def _checked_address(url: str) -> str:
    """Return `url`. Raises PydanticCustomError if it is no address of a service, or contains a credential."""
    accepted = "http:// or https://, a host, and a path, without spaces and #: https://example.org/v1/classify"
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole or not url.isprintable() or " " in url or "#" in url:
        raise rejected("`url` is not the address of a service", accepted)
    if parts.username is not None or parts.password is not None:
        raise rejected("`url` contains a user name or a password", _ADVICE)
    for key, _ in parse_qsl(parts.query, keep_blank_values=True):
        if _carries_secrets(key):
            raise rejected(f"`url` contains '{key}', which looks like a credential", f"{_ADVICE}; query: {key}")
    return url


def _check_keys_of_requests(extra: Mapping[str, Any], *, chat: bool) -> None:
    """Raise PydanticCustomError if `extra` is not JSON, or has a key that requests, or chats, must not have."""
    keys: list[str] = []
    try:
        text = json.dumps(extra, allow_nan=False)
        json.loads(text, object_pairs_hook=lambda pairs: keys.extend(key for key, _ in pairs))
    except (TypeError, ValueError):
        raise rejected(
            "`extra` has a value that JSON cannot hold", "text, finite numbers, true, false, null, lists, mappings"
        ) from None
    for key in keys:
        if _SECRET_FIELDS.fullmatch(re.sub(r"[\W_]", "", key.lower())):
            raise rejected(f"`extra` contains '{key}', which looks like a credential", _ADVICE)
    taken = sorted({"model", "messages", "stream", "n"} & extra.keys())
    if chat and taken:
        raise rejected(f"`extra` contains '{taken[0]}', which it must not contain", "temperature, max_tokens, seed, …")


def _carries_secrets(name: str) -> bool:
    return any(word in name.lower() for word in _SECRET_WORDS)
