"""Components in a user's own file: `python: "mine.py:Shuffle"`.

With permission, a launch runs the file, which may import other files of its folder. The digest of all these files is
part of the attack's id. Their text is sent to the workers, also on other machines. If the code is not loaded, a
placeholder stands for the component, so that a run folder can be read without running code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, ClassVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from study.attacks.component import Component
from study.attacks.kinds import View
from study.attacks.part import Declared, Part
from study.attacks.registry import ALL_KINDS
from study.errors import StudyError, first_line, names
from study.reproducibility import user_files
from study.reproducibility.user_files import UserFile

_loaded: dict[tuple[str, str], type[Component]] = {}
"""The classes of components that are loaded, by reference (`<file>.py:<class>`) and digest of the file."""

_modules: dict[str, ModuleType] = {}
"""The modules of users' files that have run, by digest of the file. Two components of one file share a module."""


def read(reference: str, where: str) -> UserFile:
    """Read the file of a component without running it.

    Raises StudyError, with the place `where` in the spec, if the file does not exist.
    """
    try:
        return user_files.read(reference, reference)
    except StudyError as error:
        raise error.located(where) from None


def load(own: UserFile, kind: str, where: str = "") -> type[Component]:
    """Run the user's file, and return the class that `own` names. A file runs again only if its text has changed.

    Only call this with the user's permission. Raises StudyError, with file and line, if the file cannot be run, or has
    no component of this kind and name.
    """
    component = load_any(own, where)
    if component.kind != kind:
        raise StudyError(
            f"{own.reference} is a component of the kind '{component.kind}', but the kind '{kind}' is needed here",
            where=where,
            accepted=f"a class that derives from {ALL_KINDS[kind].__name__}",
        )
    return component


def load_any(own: UserFile, where: str = "") -> type[Component]:
    """Run the user's file, and return the class that `own` names, as `load` does, but for a component of any kind."""
    key = (own.reference, own.digest)
    if key not in _loaded:
        called = own.called
        module = _module(own, where)
        found = getattr(module, called, None)
        if (
            not isinstance(found, type)
            or not issubclass(found, Component)
            or getattr(found, "kind", "") not in ALL_KINDS
        ):
            there = [name for name, one in vars(module).items() if isinstance(one, type) and _is_own(one, module)]
            raise StudyError(
                f"{own.path} has no component '{called}'",
                where=where,
                accepted=names(there, called) if there else "a class that derives from a kind, such as View",
            )
        _loaded[key] = found
    return _loaded[key]


def sealed(part: Part, where: str, *, allowed: bool) -> tuple[Part, UserFile]:
    """Run the file of `part`. Return the completed part, and the file.

    The completed part has the digest of the file and the declarations of the component. Raises StudyError, with the
    place `where` in the spec, if `allowed` is false, if `read` or `load` raises it, or if parameters are wrong.
    """
    assert part.python is not None, "only parts in a user's file can be completed"
    if not allowed:
        raise StudyError(
            f"{part.python} is your own code, which may not run without permission",
            where=where,
            accepted="--allow-code, for code that you trust: it runs with all your rights",
            todo="read the code, then add --allow-code to the command",
        )
    own = read(part.python, where)
    component = made(part.model_copy(update={"sha256": own.digest}), load(own, part.kind, where), where)
    declared = Declared(
        copies=component.count if isinstance(component, View) else 1,
        others=component.others,
        reads_true_labels=component.reads_true_labels,
    )
    return part.model_copy(update={"sha256": own.digest, "declared": declared}), own


def made(part: Part, found: type[Component], where: str) -> Component:
    """Return the component of a part, an instance of the class `found`.

    Raises StudyError, with the place `where` in the spec, for wrong parameters.
    """
    try:
        return found.model_validate(part.parameters)
    except ValidationError as error:
        details = error.errors(include_url=False)
    raise _refused(details, part, found).located(where)


def _refused(details: list[ErrorDetails], part: Part, found: type[Component]) -> StudyError:
    """Return the error for the first of the parameters of `part` that pydantic refuses."""
    name, first = part.python or part.name, details[0]
    if not first["loc"]:
        return StudyError(f"{name}: {first['msg'].removeprefix('Value error, ')}", accepted=_accepted_by(first))
    key = str(first["loc"][0])
    keys = [field.alias or one for one, field in found.model_fields.items()]
    if key not in keys:
        return StudyError(f"{name} has no parameter '{key}'", accepted=names(keys, key))
    if key not in part.parameters:
        return StudyError(f"{name} needs the parameter '{key}'", accepted=names(keys))
    # If a parameter may be of several types, pydantic has an error for each type.
    accepted = dict.fromkeys(_accepted_by(one) or one["msg"] for one in details if str(one["loc"][0]) == key)
    inner = "" if first["input"] == part.parameters[key] else f" hold {first['input']!r}, so it cannot"
    return StudyError(f"{name}: {key} cannot{inner} be {part.parameters[key]!r}", accepted="; or ".join(accepted))


def _accepted_by(detail: ErrorDetails) -> str | None:
    """Return what pydantic's error says is accepted; None if it does not say this."""
    if "accepted" in detail.get("ctx", {}):
        return str(detail["ctx"]["accepted"])
    message = detail["msg"].removeprefix("Value error, ")
    expected = message.removeprefix("Input should be ")
    return expected if expected != message else None


def install(code: Iterable[tuple[str, UserFile]]) -> None:
    """Load components in a worker process, so that attacks find them.

    `code` has the kind and the file of each component.
    """
    for kind, own in code:
        load(own, kind)


def loaded_or_placeholder(part: Part) -> Component:
    """Return the component of a part, or a placeholder if the part is in a user's file that is not loaded."""
    if part.python is None:
        return part.component()
    found = _loaded.get((part.python, part.sha256 or ""))
    if found is not None:
        return made(part, found, part.python)
    placeholder: Component = _PLACEHOLDERS[part.kind](part=part)
    return placeholder


def _is_own(found: type, module: ModuleType) -> bool:
    return issubclass(found, Component) and found.__module__ == module.__name__


def _module(own: UserFile, where: str) -> ModuleType:
    if own.digest not in _modules:
        try:
            with user_files.run(own) as module:
                _modules[own.digest] = module
        except Exception as error:
            raise StudyError(
                f"{own.reference} cannot be run: {type(error).__name__}: {first_line(error)}",
                where="; ".join(filter(None, (user_files.line_in(error, [own]) or own.path, where))),
                todo="correct the file",
            ) from error
        finally:
            user_files.forget()
    return _modules[own.digest]


class _Placeholder(Component):
    """A component that stands for a user's component whose file is not loaded."""

    name: ClassVar[str] = "python"
    part: Part

    def identity(self) -> list[Any]:
        return self.part.identity()

    @property
    def others(self) -> int:
        return self.part.declared.others

    @property
    def reads_true_labels(self) -> bool:
        return self.part.declared.reads_true_labels


class _AnyView(_Placeholder):
    @property
    def count(self) -> int:
        return self.part.declared.copies


class _AnyProgram(_Placeholder):
    def cost(self, steps: int, sources: int, views: int) -> int:
        return steps


_OF_KIND: Mapping[str, type[_Placeholder]] = {"view": _AnyView, "program": _AnyProgram}
_PLACEHOLDERS: Mapping[str, Any] = {
    kind: type("_Placeholder", (_OF_KIND.get(kind, _Placeholder), base), {"__module__": __name__})
    for kind, base in ALL_KINDS.items()
}
