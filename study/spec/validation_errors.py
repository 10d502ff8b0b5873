"""Translate pydantic's errors into messages about a spec: the problem, its line, and the accepted values."""

from __future__ import annotations

import types
import typing
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from study.attacks.registry import parameters_of
from study.errors import StudyError, names
from study.spec import other_names
from study.spec.yaml_document import Document, Place, dotted

_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "tuple_type": "a list",
    "list_type": "a list",
    "finite_number": "a finite number",
}


def first_error(error: ValidationError, document: Document, model: type[BaseModel]) -> StudyError:
    """Return the first of pydantic's errors as a StudyError, which also tells how many other errors there are.

    In a union, pydantic reports an error for each branch. All errors about one value count as one error.
    """
    found = error.errors(include_url=False)
    # Report unknown keys before missing keys: a misspelt key is often the reason why another key is missing.
    found.sort(key=lambda detail: detail["type"] == "missing")
    place = _place(found[0], document)
    same = [detail for detail in found if _place(detail, document) == place]
    more = len({_place(detail, document) for detail in found}) - 1
    first = _translated(same, place, document, model)
    if more:
        rest = f"{more} more error{'s follow' if more > 1 else ' follows'}"
        first.todo = f"{first.todo}; {rest}" if first.todo else f"fix this; {rest}"
    return first


def _translated(found: list[ErrorDetails], place: Place, document: Document, model: type[BaseModel]) -> StudyError:
    detail, where = found[0], document.where(place)
    key = _key(place)
    if detail["type"] == "extra_forbidden":
        known = _parameters(place[:-1]) or _fields(model, place[:-1])
        return _unknown_key(str(place[-1]), known, _section(place, model), where)
    if detail["type"] == "missing":
        return StudyError(
            f"the key '{detail['loc'][-1]}' is missing",
            where=where,
            accepted=names(_parameters(place) or _fields(model, place)),
        )
    written = _unquoted(found, place, document)
    if written is not None:
        return StudyError(
            f"{key} must be text, but YAML reads {written} without quotes as {_kind_of(detail['input'])}",
            where=where,
            todo=f'put quotes around it: "{written}"',
        )
    context = detail.get("ctx", {})
    if "accepted" in context:
        return StudyError(str(detail["msg"]), where=where, accepted=str(context["accepted"]))
    if detail["type"] in ("budget", "parts", "images", "reference", "sources"):
        return StudyError(str(detail["msg"]), where=where)
    accepted = "; or ".join(dict.fromkeys(_accepted(one) for one in found))
    return StudyError(f"{key} cannot be {_shown(detail['input'])}", where=where, accepted=accepted)


def _unknown_key(given: str, known: list[str], section: str, where: str) -> StudyError:
    """Return the error for an unknown key.

    If another library calls one of our keys by this name, the error names our key.
    """
    found = other_names.key(given, section)
    ours = found.ours.partition(":")[0] if found is not None else ""
    if found is None or ours not in known:
        return StudyError(f"there is no key '{given}' here", where=where, accepted=names(known, given))
    note = f" ({found.note})" if found.note else ""
    how = f"it is called `{ours}`" if found.ours == ours else f"write `{found.ours}`"
    return StudyError(f"there is no key '{given}' here: {how}{note}", where=where, accepted=names(known, ours))


def _section(place: Place, model: type[BaseModel]) -> str:
    """Return the section of a spec to which a key belongs, as `other_names` calls it; `spec` for the top level."""
    if "budget" in model.model_fields:
        return "attacks"
    return str(place[0]) if len(place) > 1 else "spec"


def _key(place: Place) -> str:
    """Return the last key of a place, with the list positions that follow this key, in quotes."""
    named = [index for index, part in enumerate(place) if isinstance(part, str)]
    if not named:
        return "the spec"
    return f"'{dotted(place[named[-1] :])}'"


def _accepted(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    if detail["type"] == "literal_error":
        return str(context["expected"]).replace("'", "")
    if detail["type"] == "too_short":
        least = int(context["min_length"])
        return "at least one entry" if least == 1 else f"at least {least} entries"
    if detail["type"] in _KINDS:
        return _KINDS[detail["type"]]
    message = str(detail["msg"])
    return message.removeprefix("Input should be ").removeprefix("Value error, ").removeprefix("a valid ")


def _unquoted(found: list[ErrorDetails], place: Place, document: Document) -> str | None:
    """Return an unquoted word that YAML has not read as text, although the spec needs text; None if there is none.

    The word is at `place`, or inside the value at `place` if this value is a short form.
    """
    if any(one["type"] == "string_type" for one in found) and place in document.unquoted:
        return document.unquoted[place]
    given = found[0]["input"]
    for known, written in document.unquoted.items():
        inside = len(known) > len(place) and known[: len(place)] == place
        if inside and found[0]["type"] in ("string_type", "tuple_type") and _at(known, document) is given:
            return written
    return None


def _at(place: Place, document: Document) -> Any:
    """Return the value at a place; ... (Ellipsis) if an override has replaced it."""
    data = document.data
    for part in place:
        try:
            data = data[part]
        except (LookupError, TypeError):
            return ...
    return data


def _kind_of(value: Any) -> str:
    """Return a description of a value that YAML read from a word without quotes."""
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "the word true", False: "the word false"}[value]
    return f"the number {value}" if isinstance(value, int | float) else "a date"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _place(detail: ErrorDetails, document: Document) -> Place:
    """Return the part of an error's location that exists in the document.

    Pydantic's location may also have names of branches of a union, which are left out.
    """
    place: Place = ()
    data = document.data
    for part in detail["loc"]:
        inside = (isinstance(data, dict) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if not inside:
            break
        place, data = (*place, part), data[part]
    return place


def _fields(model: type[BaseModel], place: Place) -> list[str]:
    """Return the keys that the model class at `place` accepts."""
    annotation: Any = model
    for part in place:
        inner = _model_in(annotation)
        if inner is not None and isinstance(part, str) and part in inner.model_fields:
            annotation = inner.model_fields[part].annotation
        else:
            arguments = typing.get_args(annotation)
            annotation = arguments[-1] if arguments else Any
    inner = _model_in(annotation)
    if inner is None:
        return []
    extra = ["epsilon", "preset"] if "budget" in inner.model_fields else []
    return [*inner.model_fields, *extra]


def _parameters(place: Place) -> list[str]:
    """Return the parameters of the component whose name ends `place`, a place inside an attack or a transform.

    Return an empty list for any other place.
    """
    defence = place[:1] == ("models",) and "transform" in place[:-1]
    inside = place[:1] == ("attacks",) and len(place) > 3
    return parameters_of(str(place[-1]), defence=defence) if inside or defence else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        for argument in typing.get_args(annotation):
            found = _model_in(argument)
            if found is not None:
                return found
    return None
