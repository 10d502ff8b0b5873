"""Read YAML text into plain data with the line of every key, for error messages. Write plain data as YAML text.

`parse` expands `${NAME}` in a user's text. `as_written` reads text that `dump` has written, and expands nothing.
"""

from __future__ import annotations

import numbers
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from study.errors import StudyError, first_line
from study.safe_text import is_control
from study.storage.no_run import not_a_spec

Place = tuple[str | int, ...]
"""The place of a value in a document: the keys and list positions from the top of the document down to the value."""

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_MOST_NODES = 100_000
_MOST_DEEP = 50
_MOST_KEY, _MOST_TEXT = 200, 10_000


_REREAD = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
"""A pattern of digits that YAML 1.1 reads as a number of another base: 016 as 14, and 1:30 as 90."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which here also reads 1e-3 as a number, as YAML 1.2 does."""


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which here also quotes a text such as 1e-3, because `_Loader` would read a number."""


for _one in (_Loader, _Dumper):
    _one.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


@dataclass
class Document:
    """The data of a YAML text, and the origin of every value.

    Attributes:
        name: The name of the file, or another name for messages.
        data: The data.
        origins: File and line, or the override (`--set`), of each place.
        unquoted: The words without quotes that YAML did not read as text, as the user wrote them, by place.
        lines: Whether messages show line numbers. This is false if a program has made the data.
    """

    name: str
    data: Any = None
    origins: dict[Place, str] = field(default_factory=dict)
    unquoted: dict[Place, str] = field(default_factory=dict)
    lines: bool = True

    def where(self, place: Place) -> str:
        """Return file, line and key of `place`, for a message.

        If the line of `place` is not known, use the line of the key that contains it.
        """
        known = place
        while known and known not in self.origins:
            known = known[:-1]
        origin = self.origins.get(known, self.name)
        return f"{origin}, {dotted(place)}" if place else origin


def dotted(place: Place) -> str:
    """Return a place as text, such as experiments.table1.attacks[0]."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text


def parse(text: str, name: str, environment: Mapping[str, str] | None = None) -> Document:
    """Read one YAML document, and expand `${NAME}` and `${NAME:-default}`.

    `name` is the name of the file, for messages. The variables are in `environment`; None stands for `os.environ`.
    Raises StudyError, with the line, for broken YAML, a repeated key, a key that is a list or mapping, an unset
    variable, and other things that a spec cannot have, such as tags, merge keys, control characters and very long
    texts.
    """
    return _read(text, Document(name), os.environ if environment is None else environment)


def as_written(text: str, name: str) -> Document:
    """Read one YAML document as `parse` does, but without expanding `${NAME}`.

    This is for text that `dump` has written, and for files that are no specs.
    """
    return _read(text, Document(name), None)


def from_data(data: Any, name: str) -> Document:
    """Return the document of plain data that a program has made.

    Paths become text, tuples become lists, and `${NAME}` is expanded. `name` stands for a file in messages. Raises
    StudyError, with the key, for values of other types, and for errors that `parse` would find.
    """
    try:
        text = dump(_plain(data, name, ()))
    except RecursionError:
        raise StudyError("this spec is nested too deeply", where=name) from None
    document = _read(text, Document(name, lines=False), os.environ)
    document.unquoted.clear()
    return document


def dump(data: Any, width: int = 100) -> str:
    """Return plain data as YAML text, in the order of its keys. From this text, `as_written` reads equal data."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width)
    return text


def _read(text: str, document: Document, environment: Mapping[str, str] | None) -> Document:
    name = document.name
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is not None:
            document.data = _Builder(document, environment).build(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        variable = mark is not None and "${" in "".join(text.splitlines()[mark.line : mark.line + 1])
        raise StudyError(
            f"this is not YAML: {error.problem or error.context}",
            where=f"{name}{line}",
            todo="put quotes around ${…} inside { } or [ ]"
            if variable
            else "check the indentation, the colons and the quotes at this place",
        ) from None
    except yaml.reader.ReaderError as error:
        number = text.count("\n", 0, error.position) + 1
        raise StudyError(
            f"this is not YAML: it contains the character U+{ord(text[error.position]):04X}",
            where=f"{name}, line {number}",
            accepted="text, tabs and line ends, without control characters",
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        raise StudyError(f"this is not YAML: {first_line(error)}", where=name) from None
    except RecursionError:
        raise StudyError(
            "this YAML is nested too deeply", where=name, todo="a spec needs no more than ten levels"
        ) from None
    return document


def read(path: Path) -> Document:
    """Parse the YAML file at `path`.

    Raises StudyError if the file is missing, is a folder, is not UTF-8 text, or cannot be parsed.
    """
    # Unlike os.path.isdir, Path.is_dir raises an error for a name that is too long.
    if os.path.isdir(path):
        raise not_a_spec(path)
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StudyError(
            f"the spec {path} cannot be read: {reason}", where=str(path), todo="name a YAML file"
        ) from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise StudyError(
            f"this is not UTF-8 text: {error.reason} at byte {error.start}",
            where=f"{path}, line {line}",
            todo="save the file as UTF-8",
        ) from None
    return parse(text, str(path))


def override(document: Document, assignment: str) -> None:
    """Set one value of `document`, as `--set` does. Keys that are missing are added.

    `assignment` is `key.inner=value`, with the value in YAML. Raises StudyError if it is not, or if `document` is not a
    mapping.
    """
    key, equals, text = assignment.partition("=")
    origin = f"--set {assignment}"
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise StudyError(f"'{assignment}' sets nothing", where="--set", accepted="key=value, such as images.count=5")
    inner = parse(text, origin)
    data = document.data
    for depth, part in enumerate(parts[:-1]):
        if not isinstance(data, dict):
            break
        document.origins.setdefault(tuple(parts[: depth + 1]), origin)
        if not isinstance(data.get(part), dict):
            data[part] = {}
        data = data[part]
    if not isinstance(data, dict):
        raise StudyError(f"{document.name} is not a mapping, so no key can be set in it", where=origin)
    data[parts[-1]] = inner.data
    place = tuple(parts)
    for kept in (document.origins, document.unquoted):
        for known in [known for known in kept if known[: len(place)] == place]:
            del kept[known]
    document.origins[place] = origin
    document.origins.update({place + deeper: origin for deeper in inner.origins})
    document.unquoted.update({place + deeper: word for deeper, word in inner.unquoted.items()})


def _plain(value: Any, name: str, place: Place) -> Any:
    """Return a value converted to the types that YAML has: text, numbers, booleans, None, dicts and lists."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str | os.PathLike):
        return str(os.fspath(value))
    if isinstance(value, numbers.Real):
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise StudyError(f"a key must be text, but this is {key!r}", where=_within(name, place))
        return {str(key): _plain(inner, name, (*place, key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, name, (*place, index)) for index, inner in enumerate(value)]
    raise StudyError(
        f"a spec must be plain data, but this value has type {type(value).__name__}",
        where=_within(name, place),
        accepted="text, paths, numbers, True, False, None, lists and dicts",
    )


def _within(name: str, place: Place) -> str:
    return f"{name}, {dotted(place)}" if place else name


class _Builder:
    """A builder of plain data from YAML nodes.

    Each use of an alias counts as further nodes. The number of nodes is limited, so that a small file cannot fill the
    memory.
    """

    def __init__(self, document: Document, environment: Mapping[str, str] | None) -> None:
        """Record results in `document`. `environment` has the variables to expand; None expands nothing."""
        self._document = document
        self._environment = environment
        self._scalars = yaml.constructor.SafeConstructor()
        self._nodes = 0

    def build(self, node: yaml.Node, place: Place) -> Any:
        self._nodes += 1
        if self._nodes > _MOST_NODES:
            raise self._error(f"this YAML has more than {_MOST_NODES:,} values; each use of an alias counts", node)
        if len(place) > _MOST_DEEP:
            raise self._error("this YAML is nested too deeply", node)
        if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
            raise self._error(f"the tag {node.tag} is not accepted: a spec is plain data", node)
        self._document.origins.setdefault(place, self._line(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*place, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode), "YAML has three kinds of nodes"
        return self._scalar(node, place)

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        data: dict[str, Any] = {}
        lines: dict[str, str] = {}
        for key_node, value in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error("a key must be text", key_node)
            key = self._plain(str(key_node.value), key_node)
            if len(key) > _MOST_KEY:
                raise self._error(
                    f"the key '{key[:20]}…' has {len(key):,} characters; at most {_MOST_KEY} are allowed", key_node
                )
            if key == "<<":
                raise self._error("merge keys (<<) are not supported: write out the keys", key_node)
            if key in data:
                raise self._error(f"the key '{key}' is repeated; it first occurs in {lines[key]}", key_node)
            self._document.origins[(*place, key)] = lines[key] = self._line(key_node)
            data[key] = self.build(value, (*place, key))
        return data

    def _scalar(self, node: yaml.ScalarNode, place: Place) -> Any:
        written = str(node.value)
        try:
            value = self._scalars.construct_object(node)
        except yaml.constructor.ConstructorError as error:
            raise self._error(f"this value cannot be read: {error.problem}", node) from None
        except (ValueError, OverflowError) as error:
            raise self._error(f"this value cannot be read: {error}", node) from None
        if isinstance(value, str):
            return self._plain(self._expanded(value, node), node)
        if node.style is None:
            if isinstance(value, int | float) and _REREAD.fullmatch(written):
                raise self._error(
                    f"YAML reads {written} as the number {value}",
                    node,
                    todo=f'put quotes around it if it is a name or a text, "{written}"; or write the number {value}',
                )
            self._document.unquoted[place] = written
        return value

    def _plain(self, text: str, node: yaml.Node) -> str:
        """Return `text`. Raises StudyError if the text is too long, or contains control characters.

        Control characters are refused, because a terminal that prints the text would execute them.
        """
        odd = next((mark for mark in text if is_control(mark)), None)
        if odd is not None:
            raise self._error(f"a text must not contain the character U+{ord(odd):04X}", node)
        if len(text) > _MOST_TEXT:
            raise self._error(
                f"a text of {len(text):,} characters is too long; at most {_MOST_TEXT:,} are allowed", node
            )
        return text

    def _expanded(self, text: str, node: yaml.Node) -> str:
        environment = self._environment
        if environment is None:
            return text

        def value_of(match: re.Match[str]) -> str:
            value = environment.get(match[1], match[2])
            if value is None:
                raise StudyError(
                    f"the environment variable {match[1]} is not set",
                    where=self._line(node),
                    todo=f"export {match[1]}=…, or write a default: ${{{match[1]}:-…}}",
                )
            return value

        return _VARIABLE.sub(value_of, text)

    def _line(self, node: yaml.Node) -> str:
        if self._document.name.startswith("--set") or not self._document.lines:
            return self._document.name
        return f"{self._document.name}, line {node.start_mark.line + 1}"

    def _error(self, what: str, node: yaml.Node, todo: str | None = None) -> StudyError:
        return StudyError(what, where=self._line(node), todo=todo)
