"""The JSON schema of a spec, for editors.

Pydantic generates the schema. Each field of a pydantic class declares its own short forms.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from study.spec.schema import Spec


class _WithoutTitles(GenerateJsonSchema):
    """A generator that leaves out the titles that pydantic derives from keys, because they only repeat the keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> dict[str, Any]:
        found = super().model_schema(schema)
        found.pop("title", None)
        return found


def spec_schema() -> dict[str, Any]:
    """Return the JSON schema of a spec.

    The schema accepts every valid spec. It also accepts some invalid specs, because it checks each part of a spec
    without the other parts.
    """
    schema = Spec.model_json_schema(schema_generator=_WithoutTitles)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A study", **schema}


def text() -> str:
    """Return the JSON schema of a spec as indented JSON text, with a line break at the end."""
    return json.dumps(spec_schema(), indent=1, ensure_ascii=False) + "\n"
