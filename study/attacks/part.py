"""A part: a component as a spec writes it, by name and parameters, or as a class in a user's file.

These are parts: `diversity`, `{diversity: {probability: 0.7}}`, `{scales: 5}`,
`{python: "mine.py:Shuffle", copies: 4}`. Reading a spec never runs a user's code: `study.attacks.own_code` loads the
class, with permission.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from study.attacks import registry
from study.attacks.component import Component
from study.errors import names
from study.reproducibility.hashing import canonical
from study.spec.frozen import Frozen

PYTHON = "python"
_SEALED = ("sha256", "declared")
"""The keys that a launch adds to a part in a user's file after it has read the file."""


_CUSTOM = ("parts", "budget", "reference")
"""The types of the project's own validation errors that parameters of a component may cause.

Pydantic has no messages for these types.
"""


class Declared(Frozen):
    """Properties of a component in a user's file. The planning of a run reads them without running the file."""

    copies: Annotated[int, Field(ge=1)] = 1
    others: Annotated[int, Field(ge=0)] = 0
    reads_true_labels: bool = False


class Part(Frozen):
    """One component of an attack: its name, or `<file>.py:<class>` in `python`, and its parameters."""

    kind: str
    name: str = ""
    python: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    sha256: str | None = None
    declared: Declared = Declared()

    def component(self) -> Component:
        """Return the component.

        Raises TypeError for a class in a user's file, because only `own_code.load` loads such a class.
        """
        if self.python is not None:
            raise TypeError(f"{self.python} is not loaded")
        found = registry.find(self.kind, self.name)
        assert found is not None, "the name was checked when the part was read"
        return found.model_validate(self.parameters)

    def written(self) -> Any:
        """Return the part as a spec writes it in YAML, with all parameters."""
        if self.python is None:
            return {self.name: self.parameters} if self.parameters else self.name
        sealed = {} if self.sha256 is None else {"sha256": self.sha256, "declared": self.declared.model_dump()}
        return {PYTHON: self.python, **self.parameters, **sealed}

    def identity(self) -> list[Any]:
        """Return the part's entry in an id.

        For a user's class, the entry has the name of the class, the digest of its file and the parameters, but not the
        folder of the file.
        """
        if self.python is None:
            return self.component().identity()
        return [self.kind, PYTHON, self.python.rpartition(":")[2], self.sha256, canonical(self.parameters)]


@dataclass(frozen=True)
class PartOf:
    """A pydantic annotation for a field that holds a part of the kind `kind`.

    The annotation gives the field its short forms, its checks and its JSON schema.
    """

    kind: str
    besides: tuple[tuple[str, str], ...] = ()
    """Names of components that the field does not accept, each with the text that a spec has in place of the name."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.read, serialization=core_schema.plain_serializer_function_ser_schema(_written)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        own = {
            "type": "object",
            "properties": {PYTHON: {"type": "string", "pattern": r".+:[A-Za-z_]\w*"}},
            "required": [PYTHON],
        }
        found = self.names()
        named = {
            "type": "object",
            "properties": self.schemas(),
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1,
        }
        return {"anyOf": [{"enum": found}, named, own]} if found else own

    def names(self) -> list[str]:
        """Return the names of the components of this kind that the field accepts."""
        return [one for one in registry.known(self.kind) if one not in dict(self.besides)]

    def schemas(self) -> dict[str, Any]:
        """Return the JSON schema of the parameters of each component that the field accepts, by name."""
        return {name: _schema(self.kind, name) for name in self.names()}

    def read(self, given: Any) -> Any:
        """Return the part that `given` describes.

        Raises PydanticCustomError if `given` is not a part, and ValidationError for wrong parameters.
        """
        if isinstance(given, Part):
            return given
        if isinstance(given, Component):
            if registry.find(self.kind, given.name) is None:
                # The class is defined in a notebook or a script, and is registered when it is first used.
                registry.register(type(given))
            return Part(kind=self.kind, name=given.name, parameters=given.model_dump(mode="json"))
        if isinstance(given, str):
            return self._named(given, {})
        if isinstance(given, dict) and PYTHON in given:
            return self._own(given)
        if isinstance(given, dict):
            # A run folder of format 1 names every kind of start, with None for those that the attack does not use.
            chosen = {name: value for name, value in given.items() if value is not None} or given
            if len(chosen) == 1:
                ((name, value),) = chosen.items()
                return self._named(str(name), {} if value is True else value)
        raise PydanticCustomError(
            "reference",
            "this is not a component of kind {kind}: {given}",
            {"kind": self.kind, "given": repr(given), "accepted": self._accepted("")},
        )

    def _named(self, name: str, value: Any) -> Part:
        besides = dict(self.besides)
        if name in besides:
            raise PydanticCustomError(
                "reference",
                "the {kind} '{name}' is not given by its name here",
                {"kind": self.kind, "name": name, "accepted": besides[name]},
            )
        found = registry.find(self.kind, name)
        if found is None:
            raise PydanticCustomError(
                "reference",
                "there is no {kind} named '{name}'",
                {"kind": self.kind, "name": name, "accepted": self._accepted(name)},
            )
        if value is None:
            value = {}
        if not isinstance(value, dict) and found.main is not None:
            value = {found.main: value}
        try:
            component = found.model_validate(value)
        except ValidationError as error:
            raise _inside(error, name) from None
        return Part(kind=self.kind, name=name, parameters=component.model_dump(mode="json"))

    def _own(self, given: dict[str, Any]) -> Part:
        where = given[PYTHON]
        file, _, called = str(where).rpartition(":")
        if not isinstance(where, str) or not file or not called.isidentifier():
            raise PydanticCustomError(
                "reference",
                "'{where}' names no class in a file",
                {"where": str(where), "accepted": "<file>.py:<class>, or <module>:<class>"},
            )
        rest = {key: value for key, value in given.items() if key not in (PYTHON, *_SEALED)}
        sealed = {key: given[key] for key in _SEALED if key in given}
        return Part(kind=self.kind, python=where, parameters=rest, **sealed)

    def _accepted(self, name: str) -> str:
        known = [*self.names(), *(["zero"] if self.kind == "start" else [])]
        return f"{names(known, name)}; or {{python: <file>.py:<class>}}"


def _schema(kind: str, name: str) -> dict[str, Any]:
    """Return the JSON schema of what may follow the name of a component in a spec.

    This is a mapping of parameters, a single value for the main parameter if there is one, or nothing (null).
    """
    component = registry.find(kind, name)
    assert component is not None, "registered"
    whole = {key: one for key, one in component.model_json_schema().items() if key not in ("title", "description")}
    for one in whole.get("properties", {}).values():
        one.pop("title", None)
    short = [whole["properties"][component.main]] if component.main else []
    return {"anyOf": [whole, *short, {"type": "null"}]}


def _inside(error: ValidationError, name: str) -> ValidationError:
    """Return the errors in a component's parameters, with the component's key `name` before each location."""
    details = []
    for one in error.errors(include_url=False):
        given: Any = one["type"]
        if given in _CUSTOM:
            given = PydanticCustomError(given, "{message}", {"message": one["msg"], **one.get("ctx", {})})
        at = (name, *one["loc"])
        details.append(InitErrorDetails(type=given, loc=at, input=one["input"], ctx=one.get("ctx", {})))
    return ValidationError.from_exception_data(error.title, details)


class NameOrPart(PartOf):
    """An annotation as `PartOf`, for a field that stores a component without parameters as a bare name."""

    def read(self, given: Any) -> Any:
        """Return the component's name if it has no parameters and is not in a user's file, else a `Part`."""
        found = super().read(given)
        return found.name if found.python is None and not found.parameters else found


def _written(given: str | Part) -> Any:
    return given.written() if isinstance(given, Part) else given


def without_declarations(attack: Mapping[str, Any]) -> dict[str, Any]:
    """Return an attack's plain data without the key `declared` of parts in users' files.

    These declarations are redundant, because they follow from the files, whose digests stay in the data.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items() if not (key == "declared" and "sha256" in value)}
        return [plain(one) for one in value] if isinstance(value, list) else value

    found: dict[str, Any] = plain(dict(attack))
    return found
