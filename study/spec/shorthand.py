"""Short forms of YAML values. The JSON schema shows the short forms that a field accepts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

Json = Mapping[str, Any]
"""A JSON schema."""

TEXT: Json = {"type": "string"}
TEXTS: Json = {"type": "array", "items": TEXT, "minItems": 1}

_Item = TypeVar("_Item")


@dataclass(frozen=True, eq=False)
class Shorthand:
    """An annotation of a field that accepts short forms.

    Before pydantic validates a value, `expand` converts a short form to the full value, and returns any other value
    unchanged. `forms` are the JSON schemas of the short forms.
    """

    expand: Callable[[Any], Any]
    forms: tuple[Json, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.expand, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return any_of(handler(schema), *self.forms)


class OneItem:
    """An annotation of a list field: a single item is accepted in place of a list of this one item."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_listed, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        whole = handler(schema)
        return any_of(whole, whole["items"])


OneOrMore = Annotated[tuple[_Item, ...], Field(strict=False, min_length=1), OneItem()]
"""A list with at least one item, or the item alone."""

Names = OneOrMore[str]


def also(*forms: Json) -> Callable[[dict[str, Any]], None]:
    """Return a function for pydantic's `json_schema_extra`, which adds `forms` to the JSON schema of a model.

    The validator of such a model accepts values of these forms, and not only a mapping of its fields.
    """

    def extend(schema: dict[str, Any]) -> None:
        described = {"description": schema.pop("description")}
        usual = dict(schema)
        schema.clear()
        schema.update(described | any_of(usual, *forms))

    return extend


def instead(*forms: Json) -> Callable[[dict[str, Any]], None]:
    """Return a function for pydantic's `json_schema_extra`, which replaces the JSON schema of a model by `forms`.

    The validator of such a model accepts values of these forms. The schema shows no mapping of the model's fields.
    """

    def replace(schema: dict[str, Any]) -> None:
        described = {"description": schema["description"]}
        schema.clear()
        schema.update(described | any_of(*forms))

    return replace


def any_of(*schemas: Json) -> dict[str, Any]:
    """Return the JSON schema of a value that fits one of `schemas`."""
    flat = [inner for one in schemas for inner in (one["anyOf"] if one.keys() == {"anyOf"} else [one])]
    return {"anyOf": [one for index, one in enumerate(flat) if one not in flat[:index]]}


def _listed(given: Any) -> Any:
    # Nothing counts as an item too: an error is then about the item, which says more than that a list is needed.
    return [given] if given is None or isinstance(given, str | int | float) else given
