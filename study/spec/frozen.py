"""The base class of all parts of a spec."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator
from pydantic_core import PydanticCustomError


class Frozen(BaseModel):
    """The base class of all parts of a spec: immutable, strict, and created with keyword arguments.

    Unknown keys and values of another type are errors. -0.0 becomes 0.0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @field_validator("*")
    @classmethod
    def _without_negative_zero(cls, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(_positive_zero(one) for one in value)
        return _positive_zero(value)


def _positive_zero(value: Any) -> Any:
    return value + 0.0 if isinstance(value, float) else value


def rejected(what: str, accepted: str) -> PydanticCustomError:
    """Return the error for a validator to raise. `what` says what is wrong, and `accepted` says what is accepted."""
    return PydanticCustomError("reference", "{what}", {"what": what, "accepted": accepted})
