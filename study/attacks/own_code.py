"""Components in a user's own file: `python: "mine.py:Shuffle"`.

A launch reads the file and the files that it imports from its folder, with permission. Their digest joins the id of the
attack, and their text travels to the workers, also of other machines. Without the code, a placeholder stands for the
component: a run folder is read without running anything.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from pydantic import ValidationError

from study.attacks.component import Component
from study.attacks.kinds import View
from study.attacks.part import Declared, Part
from study.attacks.registry import ALL_KINDS
from study.errors import StudyError, first_line, names
from study.reproducibility.imported_files import root_of, sources

_MODULES = "study_part_"


@dataclass(frozen=True)
class OwnFile:
    """The text of a user's file and of the files beside it that it imports: `files` by path relative to its folder.

    `reference` is what the spec has, `<file>.py:<class>` or `<module>:<class>`; `main` is the file's own path in
    `files`. For an installed module `files` is empty: workers import it by its name.
    """

    reference: str
    main: str
    path: str
    files: Mapping[str, bytes]
    sha256: str


_loaded: dict[tuple[str, str], type[Component]] = {}
"""Classes by reference and digest."""


def read(reference: str, where: str) -> OwnFile:
    """Read the file of `reference`, and those that it imports from its folder. Runs nothing.

    Raises StudyError, at `where`, if there is no such file or module.
    """
    file, _, _ = reference.rpartition(":")
    if not file.endswith(".py"):
        spec = _spec_of(file)
        if spec is None or spec.origin is None or not Path(spec.origin).is_file():
            raise StudyError(
                f"{reference}: there is no module '{file}'",
                where=where,
                accepted="a module that Python can import, or a file: <path>.py:<class>",
                todo="put the module's folder on PYTHONPATH, or name the file",
            )
        origin = Path(spec.origin).resolve()
        found = sources(origin, root_of(origin)) or {origin.name: hashlib.sha256(origin.read_bytes()).hexdigest()}
        return OwnFile(reference, file, str(origin), {}, _digest(found))
    path = Path(file).resolve()
    if not path.is_file():
        raise StudyError(
            f"the file {file} of {reference} does not exist", where=where, todo="correct the path of the file"
        )
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()} | sources(path, path.parent)
    files = {name: (path.parent / name).read_bytes() for name in found}
    return OwnFile(reference, path.name, str(path), files, _digest(found))


def load(own: OwnFile, kind: str, where: str = "") -> type[Component]:
    """Run the user's file, once for each of its texts, and return the class.

    Only call this with permission. Raises StudyError, with file and line, if the file cannot be run, or has no such
    component of this kind.
    """
    component = load_any(own, where)
    if component.kind != kind:
        raise StudyError(
            f"{own.reference} is of the kind '{component.kind}', and a component of the kind '{kind}' is needed",
            where=where,
            accepted=f"a class that derives from {ALL_KINDS[kind].__name__}",
        )
    return component


def load_any(own: OwnFile, where: str = "") -> type[Component]:
    """Like `load`, for a component of any kind."""
    key = (own.reference, own.sha256)
    if key not in _loaded:
        called = own.reference.rpartition(":")[2]
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


def sealed(part: Part, where: str, *, allowed: bool) -> tuple[Part, OwnFile]:
    """Return `part` with its file's digest and what it declares, and the file. Runs the file.

    Raises StudyError, at `where`, without permission, and for what `read` and `load` raise; also for wrong parameters,
    and if the file is not the one whose digest `part` has.
    """
    assert part.python is not None, "only parts in a user's file are sealed"
    if not allowed:
        raise StudyError(
            f"{part.python} is your own code, which may not run without permission",
            where=where,
            accepted="--allow-code, for code that you trust: it runs with all your rights",
            todo="read the code, then add --allow-code to the command",
        )
    own = read(part.python, where)
    component = made(part.model_copy(update={"sha256": own.sha256}), load(own, part.kind, where), where)
    declared = Declared(
        copies=component.count if isinstance(component, View) else 1,
        others=component.others,
        reads_true_labels=component.reads_true_labels,
    )
    return part.model_copy(update={"sha256": own.sha256, "declared": declared}), own


def made(part: Part, found: type[Component], where: str) -> Component:
    """Return the component of a part. Raises StudyError, at `where`, for wrong parameters."""
    try:
        component = found.model_validate(part.parameters)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(one) for one in first["loc"]) or "the parameters"
        raise StudyError(
            f"{part.python or part.name}: {key}: {first['msg']}",
            where=where,
            accepted=names(found.model_fields, str(first["loc"][0]) if first["loc"] else ""),
        ) from None
    return component


def install(code: Iterable[tuple[str, OwnFile]]) -> None:
    """Load components, by kind and file, in a worker, so that attacks find them."""
    for kind, own in code:
        load(own, kind)


def loaded_or_placeholder(part: Part) -> Component:
    """Return the component of a part; for one in a user's file that is not loaded, a placeholder."""
    if part.python is None:
        return part.component()
    found = _loaded.get((part.python, part.sha256 or ""))
    if found is not None:
        return made(part, found, part.python)
    placeholder: Component = _PLACEHOLDERS[part.kind](part=part)
    return placeholder


def _spec_of(module: str) -> Any:
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None


def _digest(files: Mapping[str, str]) -> str:
    return hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()


def _is_own(found: type, module: ModuleType) -> bool:
    return issubclass(found, Component) and found.__module__ == module.__name__


def _module(own: OwnFile, where: str) -> ModuleType:
    if not own.files:
        return importlib.import_module(own.main)
    name = f"{_MODULES}{own.sha256[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    # The files that it imports are written anew: on another machine they are not beside it.
    folder = Path(tempfile.mkdtemp(prefix="study-part-"))
    for relative, text in own.files.items():
        place = folder / relative
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(text)
    module = ModuleType(name)
    module.__file__ = own.path
    sys.modules[name] = module
    before = set(sys.modules)
    sys.path.append(str(folder))
    try:
        # Compiled under its own path, so that a traceback and a debugger show the user's file.
        exec(compile(own.files[own.main], own.path, "exec"), module.__dict__)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        raise StudyError(
            f"{own.reference} cannot be run: {type(error).__name__}: {first_line(error)}",
            where="; ".join(filter(None, (line_in(error, (own.path,)) or own.path, where))),
            todo="mend the file",
        ) from error
    finally:
        sys.path.remove(str(folder))
        for one in set(sys.modules) - before:
            origin = getattr(sys.modules[one], "__file__", None)
            if origin and Path(origin).is_relative_to(folder):
                # Another file may have a module of this name beside it.
                del sys.modules[one]
        shutil.rmtree(folder, ignore_errors=True)
    return module


def line_in(error: BaseException, paths: Iterable[str]) -> str:
    """Return `<file>, line <n>` of the innermost frame of an error that lies in one of `paths`; "" if none does."""
    known = set(paths)
    if isinstance(error, SyntaxError) and error.lineno and error.filename in known:
        return f"{error.filename}, line {error.lineno}"
    frames = [one for one in traceback.extract_tb(error.__traceback__) if one.filename in known]
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else ""


class _Placeholder(Component):
    """Stands for a component whose file is not loaded."""

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
