"""Translate pydantic's errors into messages about a spec: the problem, its line, and the accepted values."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
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

_SIZES = {
    "too_short": ("at least", "min_length", "entry", "entries"),
    "too_long": ("at most", "max_length", "entry", "entries"),
    "string_too_short": ("at least", "min_length", "character", "characters"),
    "string_too_long": ("at most", "max_length", "character", "characters"),
}
"""For pydantic's errors about the size of a list or a text: words for the message, and the key of the bound."""


def first_error(error: ValidationError, document: Document, model: type[BaseModel]) -> StudyError:
    """Return the first of pydantic's errors as a StudyError, which also tells how many other errors there are.

    In a union, pydantic reports an error for each branch. All errors about one value count as one error.
    """
    found = _in_fitting_branches(error.errors(include_url=False), document)
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


def _in_fitting_branches(found: list[ErrorDetails], document: Document) -> list[ErrorDetails]:
    """Return the errors without those that only say that a mapping or a list has the wrong kind, if others say more.

    In a union, pydantic reports an error for each branch. If one branch accepts the kind of a value, the errors of this
    branch say what is wrong inside the value, and those of the other branches say nothing.
    """
    placed = [(one, _place(one, document)) for one in found if not _of_wrong_items(one)]

    def fits(place: Place) -> bool:
        """Whether another branch accepts the kind of the value at `place`."""
        return any(
            other[: len(place)] == place and (other != place or not _of_wrong_kind(one)) for one, other in placed
        )

    return [one for one, place in placed if not (_of_wrong_kind(one) and fits(place))]


def _of_wrong_items(detail: ErrorDetails) -> bool:
    """Whether an error says that a list is too short, although it is not: pydantic does not count its wrong items.

    Each of these items has an error of its own.
    """
    given = detail["input"]
    return (
        detail["type"] == "too_short" and isinstance(given, list | tuple) and len(given) >= detail["ctx"]["min_length"]
    )


def _of_wrong_kind(detail: ErrorDetails) -> bool:
    """Whether an error says that a mapping or a list stands where a value of another kind is needed."""
    return detail["type"] in (*_KINDS, "literal_error") and isinstance(detail["input"], dict | list)


def _translated(found: list[ErrorDetails], place: Place, document: Document, model: type[BaseModel]) -> StudyError:
    detail, where = found[0], document.where(place)
    key = _key(place)
    if detail["type"] == "extra_forbidden":
        known = _parameters(place[:-1]) or _fields(model, detail["loc"][:-1])
        return _unknown_key(str(detail["loc"][-1]), known, _section(place, model), where)
    if detail["type"] == "missing":
        return StudyError(
            f"the key '{detail['loc'][-1]}' is missing",
            where=where,
            accepted=names(_parameters(place) or _fields(model, detail["loc"][:-1])),
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
    # `arguments` is a key of an attack, but unknown without `external`.
    known = [name for name in known if name != given]
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
    if detail["type"] in _SIZES:
        bound, key, one, several = _SIZES[detail["type"]]
        number = int(context[key])
        return f"{bound} one {one}" if number == 1 else f"{bound} {number} {several}"
    if detail["type"] == "string_pattern_mismatch":
        return f"a text that matches {context['pattern']}"
    if detail["type"] in _KINDS:
        return _KINDS[detail["type"]]
    message = str(detail["msg"])
    return message.removeprefix("Input should be ").removeprefix("Value error, ").removeprefix("a valid ")


def _unquoted(found: list[ErrorDetails], place: Place, document: Document) -> str | None:
    """Return an unquoted word that YAML has not read as text, although the spec needs text; None if there is none.

    The word is at `place`, or inside the value at `place` if this value is a part of a short form. A short form has
    fewer keys than pydantic's location.
    """
    if any(one["type"] == "string_type" for one in found) and place in document.unquoted:
        return document.unquoted[place]
    given, short = found[0]["input"], len(found[0]["loc"]) > len(place)
    for known, written in document.unquoted.items():
        inside = short and known[: len(place)] == place
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

    Pydantic's location may also have names of branches of a union, and keys that the user wrote in a short form. They
    are left out.
    """
    place: Place = ()
    data = document.data
    for part in detail["loc"]:
        inside = (isinstance(data, dict) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if inside:
            place, data = (*place, part), data[part]
    return place


def _fields(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """Return the keys that the class at pydantic's location `loc` accepts, as a spec writes them."""
    annotation: Any = model
    for part in loc:
        inner = _model_in(annotation)
        if inner is None:
            arguments = typing.get_args(annotation)
            annotation = arguments[-1] if arguments else Any
        else:
            # A part that is no key is the name of a branch of a union, which leads to no other class.
            field = _by_key(inner).get(str(part)) or inner.model_fields.get(str(part))
            annotation = annotation if field is None else field.annotation
    inner = _model_in(annotation)
    if inner is None:
        return []
    extra = ["epsilon", "gradients", "preset", "python", "arguments"] if "budget" in inner.model_fields else []
    return [*_by_key(inner), *extra]


def _by_key(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a class by their keys in a spec, such as `at-cost` for the field `at_cost`."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


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
