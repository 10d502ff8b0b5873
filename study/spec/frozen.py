"""The base of everything that a spec is made of."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator
from pydantic_core import PydanticCustomError


class Frozen(BaseModel):
    """Keyword-only, immutable, and strict: unknown keys and silently converted types are refused. -0.0 is 0.0."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @field_validator("*")
    @classmethod
    def _one_zero(cls, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(_one_zero(one) for one in value)
        return _one_zero(value)


def _one_zero(value: Any) -> Any:
    return value + 0.0 if isinstance(value, float) else value


def rejected(what: str, accepted: str) -> PydanticCustomError:
    """The error for a validator to raise: `what` is wrong, and what is `accepted` instead."""
    return PydanticCustomError("reference", "{what}", {"what": what, "accepted": accepted})
