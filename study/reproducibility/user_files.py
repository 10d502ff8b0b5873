"""Finds, reads, digests and runs a user's own file or module that a spec names, also on machines without the file.

A spec can name a user's attacks, networks and components of attacks as `<file>.py:<name>` or `<module>:<name>`. The
driver reads the file, and the files of the same folder that the file imports. The texts of these files are sent to the
workers. A module is not sent: every machine imports it by its name.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from study.error_places import place_in
from study.errors import StudyError, names
from study.reproducibility.imported_files import is_installed, root_of, texts

_PREFIX = "study_code_"


@dataclass(frozen=True)
class UserFile:
    """The content of a user's file or module when it was read, and the name of a class or function in it.

    Objects of this class can be pickled.

    Attributes:
        reference: The text in the spec, such as `python:mine.py:attack`.
        place: The part of `reference` that names the file or module, such as `mine.py`.
        called: The part of `reference` that names the class or function, such as `attack`.
        path: The path of the file on the machine that read the file.
        root: The folder whose files the file can import.
        sha256: The SHA-256 of the file.
        sources: The SHA-256 of the file and of the files that it imports from `root`, by path relative to `root`. Empty
            files are left out.
        texts: The texts of the files in `sources`, and of the file itself even if it is empty, by path relative to
            `root`; empty for a module.
    """

    reference: str
    place: str
    called: str
    path: str
    root: str
    sha256: str
    sources: Mapping[str, str]
    texts: Mapping[str, bytes]

    @property
    def main(self) -> str:
        """The path of the file relative to `root`."""
        return Path(self.path).relative_to(self.root).as_posix()

    @property
    def digest(self) -> str:
        """One SHA-256 of all sources and their relative paths. Ids of components contain this digest."""
        own = {Path(self.path).name: self.sha256} if self.texts or not self.sources else {}
        return hashlib.sha256(repr(sorted({**own, **self.sources}.items())).encode()).hexdigest()

    @property
    def nameless(self) -> dict[str, str]:
        """The SHA-256 of each source, by relative path. The file itself has the path "", so its name has no effect."""
        return {"": self.sha256, **{name: one for name, one in self.sources.items() if name != self.main}}

    def has(self, path: str) -> bool:
        """Return whether `path`, from a traceback, is the path of the file, or of a file that the file imports."""
        return path == self.path or self.text_of(path) is not None

    def text_of(self, path: str) -> bytes | None:
        """Return the text that was read from `path`, if it is the file or a file that the file imports; else None."""
        one = Path(path)
        return self.texts.get(one.relative_to(self.root).as_posix()) if one.is_relative_to(self.root) else None


_CARRIED: ContextVar[Mapping[str, UserFile]] = ContextVar("carried", default={})  # noqa: B039 (never changed)


@contextlib.contextmanager
def carried(files: Iterable[UserFile]) -> Iterator[None]:
    """Return a context in which `read` and `find` use `files` in place of files on this machine's disk."""
    token = _CARRIED.set({f"{one.place}:{one.called}": one for one in files})
    try:
        yield
    finally:
        _CARRIED.reset(token)


def in_file(text: str) -> bool:
    """Return whether `text`, which has the form `<file or module>:<name>`, names a file and not a module."""
    return text.rpartition(":")[0].endswith(".py")


def find(text: str, reference: str) -> Path:
    """Return the path of the file or module in `text`, which has the form `<file or module>:<name>`.

    `reference`: the text in the spec, for messages. No code runs, not even the parent package `a` of a module `a.b`.
    Raises StudyError if the file or module does not exist.
    """
    found = _CARRIED.get().get(text)
    if found is not None:
        return Path(found.path)
    place, _, _ = text.rpartition(":")
    if in_file(text):
        path = Path(place).resolve()
        if not path.is_file():
            raise StudyError(f"the file {place} of {reference} does not exist", todo="correct the path of the file")
        return path
    spec = _spec_of(place)
    if spec is None:
        written = reference.removesuffix(text)
        raise StudyError(
            f"{reference}: there is no module '{place}'",
            accepted=f"a module that Python can import, or a file: {written}<path>.py:<name>",
            todo="put the module's folder on PYTHONPATH, or name the file",
        )
    if spec.origin is None or not Path(spec.origin).is_file():
        raise StudyError(f"the Python file of {reference} cannot be found", accepted="a module with a .py file")
    return Path(spec.origin).resolve()


def read(text: str, reference: str) -> UserFile:
    """Read the file or module in `text`, which has the form `<file or module>:<name>`, and the files that it imports.

    Only imported files under `root` (see `UserFile`) are read. `reference`: the text in the spec, for messages. No code
    runs. Raises StudyError if the file or module does not exist.
    """
    found = _CARRIED.get().get(text)
    if found is not None:
        return found
    path = find(text, reference)
    place, _, called = text.rpartition(":")
    root = path.parent if in_file(text) else root_of(path)
    own, beside = path.read_bytes(), texts(path, root)
    return UserFile(
        reference=reference,
        place=place,
        called=called,
        path=str(path),
        root=str(root),
        sha256=hashlib.sha256(own).hexdigest(),
        sources={name: hashlib.sha256(one).hexdigest() for name, one in beside.items()},
        texts={path.name: own, **beside} if in_file(text) else {},
    )


@contextlib.contextmanager
def run(file: UserFile, *, folder: str | None = None) -> Iterator[ModuleType]:
    """Return a context that runs a user's file as a new module and gives this module.

    If `file` is a module, it is imported instead. In the context, an import in the file searches these
    places in this order: installed modules, the files in `file.texts`, Python's search path, and `folder`, if it is
    given. Modules from `file.texts` and `folder` stay imported until `forget` is called or another file runs. Only one
    file runs at a time: other threads wait. An exception of the file passes through.
    """
    if not file.texts:
        yield importlib.import_module(file.place)
        return
    with _ALONE:
        forget()
        importlib.invalidate_caches()
        _set_aside(file)
        finder = _Beside(file, folder)
        # The finder is the first, and asks the other finders itself. Otherwise, one part of a user's package could come
        # from the texts, and another part from the disk.
        sys.meta_path.insert(0, finder)
        try:
            yield _executed(file)
        finally:
            sys.meta_path.remove(finder)


def forget() -> None:
    """Remove the modules that the last `run` has imported from the user's own files or from `folder`.

    Another file may use the same module names. Modules that `run` had removed from `sys.modules` are restored.
    """
    for name in [one for one in sys.modules if one.partition(".")[0] in _FOUND]:
        del sys.modules[name]
    _FOUND.clear()
    sys.modules.update(_SET_ASIDE)
    _SET_ASIDE.clear()


def require_name(file: UserFile) -> None:
    """Raise StudyError if a file defines no function or class of the name that the spec asks for. Nothing runs.

    Names that only exist once the file has run, for example after `from helper import *`, are not checked.
    """
    if file.main not in file.texts:
        return
    try:
        tree = ast.parse(file.texts[file.main])
    except (SyntaxError, ValueError):
        return  # running the file raises the same error, with its line
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(one.asname or one.name).partition(".")[0] for one in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    if file.called not in found and not {"*", "__getattr__", "globals"} & found:
        defined = [one.name for one in tree.body if isinstance(one, ast.FunctionDef | ast.ClassDef)]
        raise StudyError(f"{file.place} has no function '{file.called}'", accepted=names(defined, file.called))


def function_of(file: UserFile, module: ModuleType) -> Callable[..., Any]:
    """Return the function that `file` names, from `module`. Raises StudyError if `module` has no such function."""
    function: Callable[..., Any] | None = getattr(module, file.called, None)
    if not callable(function):
        found = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise StudyError(f"{file.place} has no function '{file.called}'", accepted=names(found, file.called))
    return function


def source_of(file: UserFile, function: Callable[..., Any], module: ModuleType) -> tuple[Path, bytes]:
    """Return the path and the text of the file with the source of `function`.

    If Python does not know this file, the file of `module` is used. Raises StudyError if there is no such file.
    """
    try:
        found = inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:
        found = None
    path = found or module.__file__
    text = None if path is None else file.text_of(path)
    if path is None or (text is None and not Path(path).is_file()):
        raise StudyError(
            f"the source of {getattr(function, '__name__', 'the function')} cannot be found",
            accepted="a function in a .py file: the source of the function is part of ids",
        )
    return Path(path), Path(path).read_bytes() if text is None else text


def line_in(error: BaseException, files: Iterable[UserFile]) -> str | None:
    """Return the place of the innermost traceback frame of `error` in one of `files`; None if no frame is in them.

    A place is text with file, line number and line, as in `place_in`.
    """
    known = tuple(files)
    return place_in(error, lambda path: any(one.has(path) for one in known))


_ALONE = threading.RLock()

_FOUND: set[str] = set()
"""Top-level names of the modules that the last `run` has imported from the user's own files or from `folder`."""

_SET_ASIDE: dict[str, ModuleType] = {}
"""The modules that `_set_aside` has removed from `sys.modules`, by name. `forget` restores these modules."""


def _set_aside(file: UserFile) -> None:
    """Remove modules from `sys.modules` that would be imported in place of the files in `file.texts`.

    Installed modules stay.
    """
    tops = {Path(one).parts[0].removesuffix(".py") for one in file.texts}
    tops -= {one for one in tops if _is_installed(getattr(sys.modules.get(one), "__spec__", None), one)}
    for name in [one for one in sys.modules if one.partition(".")[0] in tops]:
        _SET_ASIDE[name] = sys.modules.pop(name)


def _is_installed(spec: ModuleSpec | None, top: str) -> bool:
    """Return whether a module is built in, installed, or part of this project. False for a user's own file.

    `spec`: the import spec of the module; None if it is unknown. `top`: the top-level name of the module.
    """
    if top in _PROGRAM:
        return True
    if spec is None:
        return False
    places = [spec.origin] if spec.has_location else list(spec.submodule_search_locations or ())
    if not places:
        return spec.origin in ("built-in", "frozen")
    return all(one is not None and is_installed(Path(one)) for one in places)


_PROGRAM = ("__main__", "study", "actors", "cli")


class _Text(SourceFileLoader):
    """Loads a module from the text `text`. Tracebacks and debuggers show `path`, from which the text was read."""

    def __init__(self, name: str, path: str, text: bytes) -> None:
        super().__init__(name, path)
        self._text = text

    def get_data(self, path: str) -> bytes:
        return self._text

    def path_stats(self, path: str) -> Mapping[str, Any]:
        # Without these stats, Python neither reads nor writes byte code for the module.
        raise OSError


class _Beside:
    """An import finder for modules that are not installed: first in the texts of a user's file, then in a folder."""

    def __init__(self, file: UserFile, folder: str | None) -> None:
        self._file = file
        self._folder = folder

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top = name.partition(".")[0]
        if name != top:
            return self._of_text(name) if top in _FOUND else None
        others = (one.find_spec(name, None) for one in sys.meta_path if not isinstance(one, _Beside))
        elsewhere = next((one for one in others if one is not None), None)
        if elsewhere is not None and _is_installed(elsewhere, top):
            return None
        found = self._of_text(name)
        if found is None and elsewhere is not None:
            return None
        if found is None and self._folder is not None:
            found = PathFinder.find_spec(name, [self._folder])
        if found is not None:
            _FOUND.add(top)
        return found

    def _of_text(self, name: str) -> ModuleSpec | None:
        stem = name.replace(".", "/")
        for relative in (f"{stem}/__init__.py", f"{stem}.py"):
            if relative in self._file.texts:
                return _spec(name, Path(self._file.root) / relative, self._file.texts[relative])
        if any(one.startswith(f"{stem}/") for one in self._file.texts):
            # This is a package whose `__init__.py` is missing or empty. Empty files are not in the texts.
            package = ModuleSpec(name, None, is_package=True)
            package.submodule_search_locations = [str(Path(self._file.root) / stem)]
            return package
        return None


def _spec(name: str, path: Path, text: bytes) -> ModuleSpec:
    inner = [str(path.parent)] if path.name == "__init__.py" else None
    loader = _Text(name, str(path), text)
    found = importlib.util.spec_from_file_location(name, path, loader=loader, submodule_search_locations=inner)
    assert found is not None, "the spec is made with a loader"
    return found


def _executed(file: UserFile) -> ModuleType:
    # Each text gets a module name of its own, so that a pickled or cached class always belongs to one text.
    name = f"{_PREFIX}{hashlib.sha256(f'{file.path} {file.digest}'.encode()).hexdigest()[:16]}"
    spec = _spec(name, Path(file.path), file.texts[file.main])
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    assert spec.loader is not None, "the loader is a `_Text`"
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _spec_of(module: str) -> ModuleSpec | None:
    """Return the import spec of a module; None if Python cannot find the module. No code of the module runs.

    `importlib.util.find_spec` would run the parent packages of a module `a.b`, so it is used for the package `a` only.
    """
    first, *inner = module.split(".")
    try:
        found = importlib.util.find_spec(first)
        for name in inner:
            if found is None or found.submodule_search_locations is None:
                return None
            found = PathFinder.find_spec(f"{found.name}.{name}", found.submodule_search_locations)
    except (ImportError, ValueError):
        return None
    return found
