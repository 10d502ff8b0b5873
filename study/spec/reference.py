"""Generate docs/spec.md and docs/spec.schema.json from the models of a spec: `python -m study.spec.reference`."""

from __future__ import annotations

import functools
import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from study.attacks import registry
from study.attacks.part import Part
from study.spec.json_schema import spec_schema, text
from study.spec.schema import Spec

_NOTES = Path(__file__).with_name("key_notes.yaml")
_BULLET = re.compile(r"^- `(\w[\w-]*)`: (.*?)(?=^- |\n\n|\Z)", re.M | re.S)
"""A pattern that matches an item of a list in a docstring: a key, and the sentences about this key."""
_DOCS = Path(__file__).resolve().parent.parent.parent / "docs"

_HEAD = """# The spec, key by key

`python -m study.spec.reference` generates this page; a test keeps it up to date. [Concepts](concepts.md) explains
the terms; [Models](models.md) and [Images](images.md) describe models and image sets.

The tables give each key's meaning, the values that it accepts, its default (– if the key is absent by default), and an
example. Lengths are pixel values 0..255 unless a sentence says otherwise.

Editors with support for YAML schemas complete and check a spec that begins with
`# yaml-language-server: $schema=<path to docs/spec.schema.json>`, as the specs in `specs/` do. `study schema` prints
the schema. In a value, `${NAME}` is an environment variable, and `${NAME:-default}` has a default. Unknown keys are
errors.
"""


def generated() -> dict[Path, str]:
    """Return the content of each generated file, by path."""
    return {_DOCS / "spec.md": _reference(), _DOCS / "spec.schema.json": text()}


def _reference() -> str:
    schema = spec_schema()
    sections = [_HEAD]
    for model, places in _walk().items():
        part = schema if model is Spec else schema["$defs"][model.__name__]
        sections.append(_section(model, places, part))
    return "\n".join([*sections, _components()])


def _components() -> str:
    """Return a table of all components that the keys of an attack can name, in Markdown."""
    lines = [
        "## Components",
        "",
        "`views`, `points`, `updates`, `penalties`, `backward` and `forward` of an attack are lists of components;",
        "`objective`, `fusion` (kind `ensemble`), `step`, `start` and `program` are one component each. A component is",
        "written as its name (`diversity`), as its name with parameters (`{diversity: {probability: 0.7}}`), for some",
        'with one value (`{scales: 5}`), or as a class in a file of yours (`{python: "mine.py:Shuffle", copies: 4}`).',
        "[Own components](extending.md) shows how to write one. Short keys, such as `diversity: {}`, come first.",
        "",
        "| kind | name | what | parameters |",
        "| --- | --- | --- | --- |",
    ]
    for component in registry.all_components():
        what = " ".join(inspect.cleandoc(component.__doc__ or "").split("\n\n")[0].split()).replace("|", "\\|")
        given = [
            f"`{name}`" + ("" if field.is_required() else f" {_value(field.get_default(call_default_factory=True))}")
            for name, field in component.model_fields.items()
        ]
        lines.append(f"| {component.kind} | `{component.name}` | {what} | {', '.join(given) or '–'} |")
    return "\n".join([*lines, ""])


def _walk() -> dict[type[BaseModel], list[str]]:
    """Return every model class of a spec, in the order of the page, with its places in a spec.

    At most four places are listed for each class.
    """
    found: dict[type[BaseModel], list[str]] = {}
    ahead: list[tuple[type[BaseModel], str]] = [(Spec, "")]
    while ahead:
        model, place = ahead.pop(0)
        known = model in found
        found.setdefault(model, [])
        if place and place not in found[model] and len(found[model]) < 4:
            found[model].append(place)
        if known:
            continue
        inner = []
        for name, field in model.model_fields.items():
            key = field.alias or name
            where = f"{place}.{key}" if place else key
            inner += [(one, where + more) for one, more in _inside(field.annotation)]
        ahead = [*inner, *ahead]
    return found


def _inside(annotation: Any, more: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    if annotation is Part:
        return
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, more
        return
    arguments = getattr(annotation, "__args__", ())
    entry = more + ".<name>" if getattr(annotation, "__origin__", None) is dict else more
    for one in arguments:
        yield from _inside(one, entry)


def _section(model: type[BaseModel], places: list[str], part: Mapping[str, Any]) -> str:
    title = " and ".join(f"`{place}`" for place in places) or "The spec"
    about = inspect.cleandoc(model.__doc__ or "")
    rows = _keys(model, part, places)
    if _listed(model):
        about = _BULLET.sub("", about)
    lines = [f"## {title}", "", re.sub(r"\n{3,}", "\n\n", about).strip(), ""]
    if rows:
        lines += ["| key | meaning | value | default | example |", "| --- | --- | --- | --- | --- |"]
        lines += [f"| `{row[0]}` | {' | '.join(row[1:])} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def _keys(model: type[BaseModel], part: Mapping[str, Any], places: list[str]) -> list[tuple[str, ...]]:
    """Return the rows of a section's table: key, meaning, accepted values, default, example."""
    properties = keys_of(part)
    if not any((field.alias or name) in properties for name, field in model.model_fields.items()):
        return []
    defaults = {field.alias or name: field for name, field in model.model_fields.items()}
    said = _listed(model)
    noted = notes(places[0] if places else "")
    rows: list[tuple[str, ...]] = []
    for key, value in properties.items():
        field = defaults.get(key)
        if field is None:
            default = ""
        elif field.is_required():
            default = "required"
        elif field.default is PydanticUndefined or isinstance(field.default, BaseModel):
            default = "empty" if field.default_factory is not None else "see below"
        else:
            default = _value(field.default)
        meaning, *example = noted.get(key, ("",))
        # A key that is only a short form has its meaning in the schema, as a description.
        means = " ".join(filter(None, (said.get(key) or meaning, value.get("description"))))
        kind = _kind(value).replace("|", "\\|")
        shown = f"`{_written(example[0])}`" if example else ""
        rows.append((key, means.replace("|", "\\|"), kind, default, shown))
    return rows


def _listed(model: type[BaseModel]) -> Mapping[str, str]:
    """Return the sentences about each key, by key, from the list of keys in the docstring of `model`.

    Return an empty mapping if the list has other items too, or if a sentence that ends with a colon introduces the
    list.
    """
    about = inspect.cleandoc(model.__doc__ or "")
    found = {one[1]: _sentence(one[2]) for one in _BULLET.finditer(about)}
    keys = {field.alias or name for name, field in model.model_fields.items()}
    whole = found.keys() <= keys and len(found) == len(re.findall(r"^- ", about, re.M))
    return found if whole and not re.search(r":\n\n- ", about) else {}


def keys_of(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema of each key of a section, by key. `part` is the schema of the section."""
    options = [part, *part.get("anyOf", ())]
    return next((one["properties"] for one in options if "properties" in one), {})


def notes(place: str) -> Mapping[str, Any]:
    """Return the notes on the keys of a section, by key: the meaning and an example of each key.

    `place` is a key of `sections()`.
    """
    found: Mapping[str, Any] = _all_notes().get(place.replace(".<name>", ""), {})
    return found


@functools.cache
def _all_notes() -> Mapping[str, Any]:
    found: Mapping[str, Any] = yaml.safe_load(_NOTES.read_text(encoding="utf-8"))
    return found


def sections() -> dict[str, tuple[type[BaseModel], Mapping[str, Any]]]:
    """Return the model class and the schema of every section of the reference, by its first place in a spec."""
    schema = spec_schema()
    return {
        places[0] if places else "": (model, schema if model is Spec else schema["$defs"][model.__name__])
        for model, places in _walk().items()
    }


def _sentence(text: str) -> str:
    """Return the text of a list item on one line, as a sentence."""
    text = re.sub(r"\s+", " ", text).strip().rstrip(";.")
    first = text if text.startswith("`") else text[:1].upper() + text[1:]
    return f"{first}."


def _written(value: Any) -> str:
    """Return a value as YAML on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").replace("|", "\\|")


def _value(default: Any) -> str:
    if default is None or default == ():
        return "–"
    if isinstance(default, tuple):
        default = list(default)
    return f"`{json.dumps(default, ensure_ascii=False)}`" if not isinstance(default, str) else f"`{default or '””'}`"


def _kind(value: Mapping[str, Any]) -> str:
    if "anyOf" in value:
        kinds = dict.fromkeys(_kind(one) for one in value["anyOf"] if one.get("type") != "null")
        return ", or ".join(kind for kind in kinds if kind)
    if "$ref" in value:
        return f"a mapping: {_spaced(value['$ref'].rpartition('/')[2])}"
    known = [value["const"]] if "const" in value else value.get("enum") or value.get("examples")
    if known:
        shown = [f"`{one if isinstance(one, str) else json.dumps(one)}`" for one in known]
        return ", ".join(shown) if len(shown) <= 8 else f"one of {len(shown)} names, such as {shown[0]}"
    kind = value.get("type")
    if kind == "array":
        count = f" ({_count(value)})" if _count(value) else ""
        return f"a list{count} of: {_kind(value.get('items', {})) or 'values'}"
    if kind == "object":
        inner = value.get("additionalProperties")
        return f"names: {_kind(inner)}" if isinstance(inner, Mapping) and inner else "a mapping"
    word = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true` or `false`"}
    return word.get(str(kind), "anything") + _bounds(value)


def _count(value: Mapping[str, Any]) -> str:
    low, high = value.get("minItems"), value.get("maxItems")
    return f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}" if high else ""


def _bounds(value: Mapping[str, Any]) -> str:
    words = (
        ("exclusiveMinimum", "above"),
        ("minimum", "from"),
        ("exclusiveMaximum", "below"),
        ("maximum", "to"),
    )
    bounds = [f"{word} {value[key]:,}" for key, word in words if key in value and abs(value[key]) < 1e15]
    return "".join(f" {one}" for one in bounds)


def _spaced(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


if __name__ == "__main__":
    for path, content in generated().items():
        path.write_text(content, encoding="utf-8")
        print(path, file=sys.stderr)
