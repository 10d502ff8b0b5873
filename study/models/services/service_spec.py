"""Black boxes behind HTTP: an image in, labels with scores out. Here is what a spec says of one; nothing is asked."""

from __future__ import annotations

import copy
import csv
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from study.errors import StudyError
from study.images.labels import LabelSet
from study.reproducibility.hashing import digest
from study.spec import yaml_document
from study.spec.frozen import Frozen
from study.spec.shorthand import TEXT, Names, also

_CARRIERS = ("token", "secret", "key", "password", "passwd", "auth", "cookie", "credential", "signature")
"""What the names of headers and of keys in an address have in them, where their values are secrets."""
_SECRET_FIELDS = re.compile(r"((api|access|secret|private)?key|(access|auth|api)?token|(client)?secret|password)")
_OURS = re.compile(r"content-(type|length|encoding)|(transfer|accept)-encoding|host|connection")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_ADVICE = "credentials: {env: NAME}, whose value is read from the environment and kept nowhere"

Seconds = Annotated[float, Field(gt=0, le=3600)]
Header = Annotated[str, Field(max_length=8000)]
OwnNames = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]


class Credentials(Frozen):
    """Where the credential of a service comes from, and how it is sent; its value never stands in a spec.

    `env` names the environment variable. It is sent in `header`, after `prefix` ("Bearer " in Authorization, nothing
    in others), or as the key `query` of the address.
    """

    env: str
    header: str | None = None
    prefix: str = ""
    query: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        if isinstance(given, cls):
            return given
        if not isinstance(given, dict):
            raise _refused("credentials are not written into a spec", "{env: NAME, header: …, prefix: …}")
        env = given.get("env", "_")
        if not isinstance(env, str) or not re.fullmatch(r"[A-Za-z_]\w*", env, re.ASCII):
            raise _refused("env is not the name of an environment variable", "letters, digits and _: SERVICE_TOKEN")
        if given.get("query") is not None:
            return given
        header = given.get("header") or "Authorization"
        usual = "Bearer " if isinstance(header, str) and header.lower() == "authorization" else ""
        return {"prefix": usual} | given | {"header": header}

    @model_validator(mode="after")
    def _one_way(self) -> Credentials:
        if self.query is not None and (self.header is not None or self.prefix):
            raise _refused("a credential goes into a header or into the address", "header with a prefix, or query")
        if self.query == "" or (self.header is not None and not _HEADER.fullmatch(self.header)):
            raise _refused("a credential needs the name that it is sent under", "header: Authorization, or query: key")
        if not (self.prefix.isascii() and self.prefix.isprintable()):
            raise _refused("the prefix of a credential is not plain text", 'printable ASCII, such as "Bearer "')
        return self


class Remote(Frozen):
    """A service that classifies images over HTTP.

    `send`: the image as PNG in the body (`png`), in base64 in a JSON object beside `extra` (`json`), or as a file of a
    form (`form`). `field` names it there; in a JSON object it may be a path, such as inputs.0.data.image.base64.

    `labels` and `scores` are paths in the JSON answer: keys and list positions joined by dots, `*` for every element.
    The `top` best labels are its answer; in the order given, where `scores` is null. `names` are the service's own
    names for labels of the study, or a YAML, JSON or CSV file of them; other labels go by the label set's own words.

    `rate` is in requests per second, `timeout` in seconds for a whole answer. A request that fails is sent up to
    `attempts` times, after `backoff` seconds and twice as long each time, at most `most_wait`.
    """

    url: str
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

    model_config = ConfigDict(json_schema_extra=also(TEXT))

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        return {"url": given} if isinstance(given, str) else given

    @field_validator("url", mode="after")
    @classmethod
    def _address(cls, url: str) -> str:
        accepted = "http:// or https://, a host, and a path: https://example.org/v1/classify"
        try:
            parts = urlsplit(url)
            whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            whole = False
        if not whole or not url.isprintable() or " " in url or "#" in url:
            raise _refused("url is not an address of a service", accepted)
        if parts.username is not None or parts.password is not None:
            raise _refused("url has a user or a password in it", _ADVICE)
        for key, _ in parse_qsl(parts.query, keep_blank_values=True):
            if _carries_secrets(key):
                raise _refused(f"url has '{key}' in it, which looks like a credential", f"{_ADVICE}; query: {key}")
        return url

    @field_validator("headers", mode="before")
    @classmethod
    def _plain_headers(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        for name, value in given.items():
            if not isinstance(name, str) or not _HEADER.fullmatch(name):
                raise _refused("headers has a name that HTTP does not allow", "letters, digits and -")
            if _carries_secrets(name):
                raise _refused(f"the header '{name}' carries a secret", f"{_ADVICE}; header: {name}")
            if _OURS.fullmatch(name.lower()):
                raise _refused(f"the header '{name}' follows from what is sent", "headers of the service's own")
            if isinstance(value, str) and not (value.isascii() and value.isprintable() and value == value.strip()):
                raise _refused(f"the header '{name}' is not one line of plain text", "printable ASCII")
        if len({name.lower() for name in given}) < len(given):
            raise _refused("headers has the same name twice", "each name once, in capitals or not")
        return given

    @field_validator("labels", "scores", mode="after")
    @classmethod
    def _path(cls, path: str | None) -> str | None:
        if path is not None and not all(path.split(".")):
            raise _refused(f"'{path}' is not a path", "keys and list positions joined by dots: labels.*.label")
        return path

    @field_validator("names", mode="before", json_schema_input_type=dict[str, Names] | str)
    @classmethod
    def _names(cls, given: Any) -> Any:
        try:
            given = read_own_names(Path(given)) if isinstance(given, str) else given
        except StudyError as error:
            accepted = error.accepted or "a mapping of labels to names"
            raise _refused(f"{error.what} ({error.where})" if error.where else error.what, accepted) from None
        if not isinstance(given, dict):
            return given
        return {str(label): [own] if isinstance(own, str) else own for label, own in given.items()}

    @model_validator(mode="after")
    def _fits(self) -> Remote:
        if any(not spoken(name) for own in self.names.values() for name in own):
            raise _refused("names has a name without letters", "label: name, or label: [name, name]")
        if self.credentials and (self.credentials.header or "").lower() in {name.lower() for name in self.headers}:
            raise _refused(f"the header '{self.credentials.header}' is given twice", "in credentials alone")
        if not self.field or not self.field.isprintable():
            raise _refused("field is empty", "the name that the image is sent under")
        if self.extra and self.send != "json":
            raise _refused("extra goes into a JSON object, and none is sent", "send: json")
        self._check_extra()
        return self

    def _check_extra(self) -> None:
        keys: list[str] = []
        try:
            text = json.dumps(self.extra, allow_nan=False)
            json.loads(text, object_pairs_hook=lambda pairs: keys.extend(key for key, _ in pairs))
        except (TypeError, ValueError):
            raise _refused("extra cannot be written as JSON", "text, finite numbers, lists, mappings") from None
        for key in keys:
            if _SECRET_FIELDS.fullmatch(re.sub(r"[\W_]", "", key.lower())):
                raise _refused(f"extra has '{key}' in it, which looks like a credential", _ADVICE)
        if self.send == "json":
            try:
                self.object_with("")
            except ValueError:
                accepted = "a path that extra leaves free: image, or inputs.0.data.image.base64"
                raise _refused(f"'{self.field}' is no place for the image in a JSON object", accepted) from None

    def object_with(self, image: str) -> dict[str, Any]:
        """The JSON object that is sent: `extra`, and `image` in its place. ValueError where there is no such place."""
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
        """The address as it is shown: without what stands after the question mark."""
        return self.url.partition("?")[0]

    @property
    def digest(self) -> str:
        """SHA-256 of what decides the answer: not how fast or with which credential it is asked for."""
        return digest("remote", self.url, self.send, self.field, self.extra, self.labels, self.scores, self.top)


def spoken(name: str) -> str:
    """A name as names are compared: without space around it, in lower case."""
    return name.strip().casefold()


def wanted_names(remote: Remote, labels: LabelSet, label: int) -> tuple[str, ...]:
    """What `remote` calls the label with this index, as `spoken`: its own names, else the label set's words."""
    own = remote.names.get(labels.labels[label])
    if own is None and labels.find(str(label)) == label:
        own = remote.names.get(str(label))
    return tuple(dict.fromkeys(spoken(name) for name in own or labels.words(label)))


def check_names(remote: Remote, labels: LabelSet) -> None:
    """StudyError where `remote` has names for a label that there is not, or for one label twice."""
    seen: dict[int, str] = {}
    for given in remote.names:
        index = labels.find(given)
        if index is None:
            raise StudyError(f"names has '{given}', which is no label of the study", accepted=labels.accepted)
        if index in seen:
            raise StudyError(f"names has one label twice, as '{seen[index]}' and as '{given}'", todo="leave one out")
        seen[index] = given


def read_own_names(path: Path) -> dict[str, Any]:
    """Names for labels, not yet checked: a mapping in YAML or JSON, or CSV lines label,name[,name...].

    Raises StudyError where the file cannot be read, or a label stands twice.
    """
    accepted = "a .yaml or .json file of label: name or label: [name, name], or a .csv file of label,name lines"
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            return _from_lines(text, path)
        if path.suffix.lower() == ".json":
            found = json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, path))
        else:
            found = yaml_document.as_written(text, str(path)).data
    except OSError as error:
        raise StudyError(f"the names in {path} cannot be read: {error.strerror}", accepted=accepted) from None
    except (ValueError, csv.Error, RecursionError):
        raise StudyError(f"the names in {path} are no {path.suffix} text", accepted=accepted) from None
    if not isinstance(found, dict):
        raise StudyError(f"{path} holds no mapping", accepted=accepted)
    return found


def _from_lines(text: str, path: Path) -> dict[str, Any]:
    pairs = []
    for number, line in enumerate(csv.reader(text.splitlines(), strict=True), 1):
        label, *own = [cell.strip() for cell in line] or [""]
        own = [name for name in own if name]
        if label and own:
            pairs.append((label, own))
        elif any(cell.strip() for cell in line):
            raise StudyError("a line has no label or no name", where=f"{path}, line {number}", accepted="label,name")
    return _once(pairs, path)


def _once(pairs: Iterable[tuple[str, Any]], path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for label, own in pairs:
        if label in found:
            raise StudyError(f"the label '{label}' stands twice", where=str(path), accepted="each label once")
        found[label] = own
    return found


def _carries_secrets(name: str) -> bool:
    return any(carrier in name.lower() for carrier in _CARRIERS)


def _refused(what: str, accepted: str) -> PydanticCustomError:
    return PydanticCustomError("reference", "{what}", {"what": what, "accepted": accepted})
