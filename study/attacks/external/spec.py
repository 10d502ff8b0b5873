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
    """Let editors accept `python` in place of `external`."""
    described = "Short for `external: python:<file>.py:<function>`."
    schema["properties"]["python"] = {"type": "string", "pattern": r".+:[A-Za-z_]\w*$", "description": described}
    del schema["required"]
    schema["anyOf"] = [{"required": ["external"]}, {"required": ["python"]}]


class External(Frozen):
    """A whole attack of another project: `{external: "torchattack:BSR", arguments: {num_scale: 10}}`.

    `external` is `<library>:<attack>`, with the library torchattack, torchattacks, foolbox or transferattack, or
    `python:<file>.py:<function>`, for which `{python: "mine.py:attack"}` is short. `transferattack` is a checkout of
    TransferAttack, at the path in the environment variable TRANSFERATTACK. `arguments` are those of the attack itself,
    with the names and in the units of its library: pixels are in 0..1 there, and `alpha: 2/255` is 0.00784.

    Such an attack draws random numbers for a whole batch at once, and may average over the batch. Its images therefore
    depend on which images are attacked together. Besides `identity`, an id must therefore hold the images of the unit
    (its shard, in order), the number of images in one call (`numerics.batch`), the goal, the budget, the sources and
    the seed.
    """

    model_config = ConfigDict(json_schema_extra=_either)

    external: Annotated[str, WithJsonSchema({"type": "string", "pattern": _PATTERN})]
    arguments: dict[str, Any] = Field(default_factory=dict)
    version: str | None = None
    """The value of `installed_version` when the spec was read; a launch writes it."""

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
        """The attack's name in its library; `<file>.py:<function>` of a user's own."""
        return self.external.partition(":")[2]

    def installed_version(self) -> str:
        """The version of the library, or a digest of the source. Raises StudyError if either is missing."""
        return libraries.adapter(self.library).version(self.attack)

    def identity(self) -> dict[str, Any]:
        """The part of an id that this spec determines: library, its installed version, attack and arguments.

        The docstring of the class says what else an id must hold. The version of a checkout, and of a user's own file,
        is a digest of the attack's source and of the files that it imports beside it; the path of a file is left out.
        Raises StudyError if the library or file is missing. A user's file is read and not run.
        """
        return {
            "library": self.library,
            "version": self.version or self.installed_version(),
            "attack": self.attack.rpartition(":")[2],
            "arguments": canonical(self.arguments),
        }


def _number(value: Any) -> Any:
    """Turn the text `2/255` into a number. Other values stay as they are."""
    found = of_255.numerator(value)
    return value if found is None else found / 255
