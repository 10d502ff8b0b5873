"""An external attack in a spec: where the attack comes from, its name there, and its arguments."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import ConfigDict, Field, WithJsonSchema, field_validator, model_validator
from pydantic_core import PydanticCustomError

from study.attacks.external import libraries
from study.reproducibility.hashing import canonical
from study.spec import of_255
from study.spec.frozen import Frozen, rejected

_PATTERN = rf"^(?:(?:{'|'.join(name for name in libraries.NAMES if name != 'python')}):\w+|python:.+:[A-Za-z_]\w*)$"
_FORMS = (*(f"{name}:<attack>" for name in libraries.NAMES if name != "python"), "python:<file>.py:<function>")


def _either(schema: dict[str, Any]) -> None:
    """Change the JSON schema of `External`, so that editors accept `python` in place of `external`."""
    described = "Short for `external: python:<file>.py:<function>`."
    schema["properties"]["python"] = {"type": "string", "pattern": r".+:[A-Za-z_]\w*$", "description": described}
    del schema["required"]
    schema["anyOf"] = [{"required": ["external"]}, {"required": ["python"]}]


class External(Frozen):
    """A whole attack of another project: `{external: "torchattack:BSR", arguments: {num_scale: 10}}`.

    `external` has one of two forms. `<library>:<attack>` names an attack of the library torchattack, torchattacks,
    foolbox or transferattack. `python:<file>.py:<function>` names a user's own function; `{python: "mine.py:attack"}`
    is short for this form. `transferattack` is a checkout of TransferAttack, at the path in the environment variable
    TRANSFERATTACK. `arguments` are the arguments of the attack itself, with the names and in the units of its library.
    Libraries have pixels in 0..1, so `alpha: 2/255` is 0.00784.

    An external attack draws random numbers for a whole batch at once, and may average over the batch. The result for
    one image therefore depends on the other images of the batch. For this reason, an id must hold more than `identity`:
    the images of the unit (one attack run on one shard) in their order, the number of images in one call
    (`numerics.batch`), the goal, the budget, the sources and the seed.
    """

    model_config = ConfigDict(json_schema_extra=_either)

    external: Annotated[str, WithJsonSchema({"type": "string", "pattern": _PATTERN})]
    arguments: dict[str, Any] = Field(default_factory=dict)
    version: str | None = None
    """The value of `installed_version` at the launch of the study. None before the launch."""

    @model_validator(mode="before")
    @classmethod
    def _from_python(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "python" not in given:
            return given
        if "external" in given:
            raise PydanticCustomError("external", "`python` is short for `external: python:…`: keep one of them")
        given = dict(given)
        given["external"] = f"python:{given.pop('python')}"
        return given

    @field_validator("external")
    @classmethod
    def _named(cls, given: str) -> str:
        if re.fullmatch(_PATTERN, given) is None:
            raise rejected(f"'{given}' does not name an attack", ", ".join(_FORMS))
        return given

    @field_validator("arguments")
    @classmethod
    def _as_numbers(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {name: _number(value) for name, value in given.items()}

    @property
    def library(self) -> str:
        return self.external.partition(":")[0]

    @property
    def attack(self) -> str:
        """The attack's name in its library, or `<file>.py:<function>` for a user's own attack."""
        return self.external.partition(":")[2]

    def installed_version(self) -> str:
        """Return the version of the library, or a digest of the attack's source.

        Raises StudyError if the library or the source is missing.
        """
        return libraries.adapter(self.library).version(self.attack)

    def identity(self) -> dict[str, Any]:
        """Return the part of an id that this spec determines: the library, its version, the attack and the arguments.

        The docstring of the class says what else an id must hold. For a checkout and for a user's own file, the version
        is a digest of source files. These are the attack's source, and the files that it imports from the checkout or
        from its own folder. The path of a user's file is left out. Raises StudyError if the library or the file is
        missing. A user's file is read and not run.
        """
        return {
            "library": self.library,
            "version": self.version or self.installed_version(),
            "attack": self.attack.rpartition(":")[2],
            "arguments": canonical(self.arguments),
        }


def _number(value: Any) -> Any:
    """Return a text such as `2/255` as a number. Return other values unchanged."""
    found = of_255.numerator(value)
    return value if found is None else found / 255
