"""The JSON schema of a spec, for editors: pydantic's own; the models' fields declare their short forms."""

from __future__ import annotations

import json
from typing import Any

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from study.spec.schema import Spec


class _WithoutTitles(GenerateJsonSchema):
    """Pydantic derives a title from each key. It would only repeat the key."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> dict[str, Any]:
        found = super().model_schema(schema)
        found.pop("title", None)
        return found


def spec_schema() -> dict[str, Any]:
    """Return the schema. It accepts every spec, and some files that are no spec: it checks parts, not how they fit."""
    schema = Spec.model_json_schema(schema_generator=_WithoutTitles)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A study", **schema}


def text() -> str:
    """The schema as JSON text, indented, with a line break at the end."""
    return json.dumps(spec_schema(), indent=1, ensure_ascii=False) + "\n"
