"""A function in the user's own module or file, `<module>:<function>` or `<path>.py:<function>`: import and digest."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from study.errors import StudyError, names
from study.reproducibility.imported_files import root_of, sources

_PREFIX = "study_code_"
_IMPORTED: set[str] = set()
"""Names of the modules that the last file imported from its own folder."""


@dataclass(frozen=True)
class UserFunction:
    """A module or file, and the name of a function in it. `reference` is what the spec calls it."""

    where: str
    called: str
    reference: str

    @classmethod
    def parse(cls, text: str, reference: str) -> UserFunction:
        """Read `<module or file>:<function>`."""
        where, _, called = text.rpartition(":")
        return cls(where, called, reference)

    @property
    def in_file(self) -> bool:
        return self.where.endswith(".py")

    @property
    def exists(self) -> bool:
        """Whether the file exists, or the module can be found. Neither runs."""
        return Path(self.where).is_file() if self.in_file else _known(self.where)


def not_found(named: UserFunction) -> StudyError:
    """The error for a file or module that does not exist."""
    if named.in_file:
        return StudyError(f"the file {named.where} of {named.reference} does not exist", todo="correct the path")
    return StudyError(
        f"{named.reference}: there is no module '{named.where}'",
        accepted="a module that Python can import, or a file: python:<path>.py:<function>",
        todo="put the module's folder on PYTHONPATH, or name the file",
    )


def module_of(named: UserFunction) -> ModuleType:
    """Import the module, or run the file anew; call it inside `imports_from_folder`.

    Raises StudyError if it does not exist. Its own exceptions pass through.
    """
    if not named.exists:
        raise not_found(named)
    if not named.in_file:
        return importlib.import_module(named.where)
    path = Path(named.where).resolve()
    # The file runs again each time, because the files that it imports may have changed.
    key = hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]
    spec = importlib.util.spec_from_file_location(f"{_PREFIX}{key}", path)
    assert spec is not None, "a path that ends in .py has a loader"
    assert spec.loader is not None, "a path that ends in .py has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def function_of(named: UserFunction, module: ModuleType) -> Callable[..., Any]:
    """The function in its module. Raises StudyError, with the functions that there are, if it does not exist."""
    function: Callable[..., Any] | None = getattr(module, named.called, None)
    if not callable(function):
        found = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise StudyError(f"{named.where} has no function '{named.called}'", accepted=names(found, named.called))
    return function


def source_of(function: Callable[..., Any], module: ModuleType) -> Path:
    """The file with the source of a function. Raises StudyError if there is none."""
    try:
        found = inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:
        found = None
    path = found or module.__file__
    if path is None or not Path(path).is_file():
        raise StudyError(
            f"the source of {getattr(function, '__name__', 'the function')} cannot be found",
            accepted="a function in a .py file: its source is part of the identity of what it makes",
        )
    return Path(path)


def folder(named: UserFunction) -> Path:
    """The folder of a file; of a module, the folder with its outermost package."""
    return root_of(_path(named)) if not named.in_file else Path(named.where).resolve().parent


def digests(named: UserFunction) -> dict[str, str]:
    """SHA-256 of the file or module, and of the sources of its folder that it imports. Nothing runs.

    The file itself has no name here, so that a copy under another name is the same. Raises StudyError if it is missing.
    """
    path, root = _path(named), folder(named)
    others = sources(path, root)
    own = others.pop(path.relative_to(root).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest())
    return {"": own, **others}


@contextlib.contextmanager
def imports_from_folder(where: str) -> Iterator[None]:
    """Let a file import modules from its own folder, after installed ones; forget the modules of an earlier file."""
    if not where.endswith(".py"):
        yield
        return
    own = str(Path(where).resolve().parent)
    for name in _IMPORTED:
        sys.modules.pop(name, None)
    _IMPORTED.clear()
    importlib.invalidate_caches()
    before = set(sys.modules)
    sys.path.append(own)
    try:
        yield
    finally:
        sys.path.remove(own)
        _IMPORTED.update(name for name in set(sys.modules) - before if _lies_in(own, name, before))


def _path(named: UserFunction) -> Path:
    if not named.exists:
        raise not_found(named)
    if named.in_file:
        return Path(named.where).resolve()
    spec = importlib.util.find_spec(named.where)
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise StudyError(f"the source of {named.reference} cannot be found", accepted="a module with a .py file")
    return Path(spec.origin).resolve()


def _known(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _lies_in(own: str, name: str, before: Collection[str]) -> bool:
    """Whether a module lies directly in the folder `own`, not deeper, where installed packages may lie."""
    path, (top, *_) = getattr(sys.modules[name], "__file__", None), name.split(".")
    if not path or top in before or not Path(path).is_relative_to(own):
        return False
    return Path(Path(path).relative_to(own).parts[0]).stem == top
