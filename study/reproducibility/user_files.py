"""Find, read, digest and run a user's own file or module that a spec names, also on machines without the file.

Components of attacks, whole attacks and networks may be the user's own: `<file>.py:<name>` or `<module>:<name>`. The
driver reads the file, and the files of its folder that it imports; their texts are sent to the workers. An installed
module is not sent: every machine imports it by its name.
"""

from __future__ import annotations

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
    """A user's file or module as it was read, and the name in it that the spec asks for. Can be pickled.

    Attributes:
        reference: The text in the spec, such as `python:mine.py:attack`.
        place: The file or module in this text.
        called: The name of the class or function.
        path: The path of the file on the machine that read it.
        root: The folder whose files the file can import.
        sha256: The SHA-256 of the file.
        sources: The SHA-256 of the file and of the files that it imports from `root`, by relative path, without empty
            files.
        texts: The texts of these files, and of the file itself even if it is empty; {} for an installed module.
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
        """One digest of all sources and their relative paths. Ids of components contain it."""
        own = {Path(self.path).name: self.sha256} if self.texts or not self.sources else {}
        return hashlib.sha256(repr(sorted({**own, **self.sources}.items())).encode()).hexdigest()

    @property
    def nameless(self) -> dict[str, str]:
        """The SHA-256 of each source by relative path. The file itself has the path "": its name has no effect."""
        return {"": self.sha256, **{name: one for name, one in self.sources.items() if name != self.main}}

    def has(self, path: str) -> bool:
        """Whether a path in a traceback is the path of the file or of a file that it imports."""
        return path == self.path or self.text_of(path) is not None

    def text_of(self, path: str) -> bytes | None:
        """Return the text of the file or of a file that it imports, by the path where it was read; None for others."""
        one = Path(path)
        return self.texts.get(one.relative_to(self.root).as_posix()) if one.is_relative_to(self.root) else None


_CARRIED: ContextVar[Mapping[str, UserFile]] = ContextVar("carried", default={})  # noqa: B039 (never changed)


@contextlib.contextmanager
def carried(files: Iterable[UserFile]) -> Iterator[None]:
    """Within the block, `read` and `find` return these files in place of those on this machine's disk."""
    token = _CARRIED.set({f"{one.place}:{one.called}": one for one in files})
    try:
        yield
    finally:
        _CARRIED.reset(token)


def in_file(text: str) -> bool:
    """Whether `<file or module>:<name>` names a file and not a module."""
    return text.rpartition(":")[0].endswith(".py")


def find(text: str, reference: str) -> Path:
    """Return the path of the file or module in `<file or module>:<name>`, which the spec calls `reference`.

    Nothing runs, not even the parent packages of a module `a.b`. Raises StudyError if the file or module does not
    exist.
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
        raise StudyError(f"the source of {reference} cannot be found", accepted="a module with a .py file")
    return Path(spec.origin).resolve()


def read(text: str, reference: str) -> UserFile:
    """Read the file or module in `<file or module>:<name>`, and the files that it imports from its folder.

    Nothing runs. Raises StudyError if the file or module does not exist.
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
    """Run the file again, or import the module if it is an installed one, and yield the module.

    Within the block, the file can import installed modules, else the files in `file.texts`, else modules on Python's
    search path, else modules in `folder`, if it is given. Modules from these files and from `folder` stay until
    `forget`, or until another file runs. Files run one at a time. Exceptions of the file pass through.
    """
    if not file.texts:
        yield importlib.import_module(file.place)
        return
    with _ALONE:
        forget()
        importlib.invalidate_caches()
        _set_aside(file)
        finder = _Beside(file, folder)
        # The finder is first, and asks the other finders itself: a package of the user must come either from the texts
        # or from the disk, not partly from both.
        sys.meta_path.insert(0, finder)
        try:
            yield _executed(file)
        finally:
            sys.meta_path.remove(finder)


def forget() -> None:
    """Remove the modules that the last file imported from its own files: another file may use the same names."""
    for name in [one for one in sys.modules if one.partition(".")[0] in _FOUND]:
        del sys.modules[name]
    _FOUND.clear()
    sys.modules.update(_SET_ASIDE)
    _SET_ASIDE.clear()


def function_of(file: UserFile, module: ModuleType) -> Callable[..., Any]:
    """Return the function that `file` names. Raises StudyError, with the module's functions, if it does not exist."""
    function: Callable[..., Any] | None = getattr(module, file.called, None)
    if not callable(function):
        found = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise StudyError(f"{file.place} has no function '{file.called}'", accepted=names(found, file.called))
    return function


def source_of(file: UserFile, function: Callable[..., Any], module: ModuleType) -> tuple[Path, bytes]:
    """Return the path and the text of the file with a function's source. Raises StudyError if there is no such file."""
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
    """Return the place (as in `place_in`) of an error's innermost frame in one of `files`; None if there is none."""
    known = tuple(files)
    return place_in(error, lambda path: any(one.has(path) for one in known))


_ALONE = threading.RLock()

_FOUND: set[str] = set()
"""The top-level names of the modules that the last file imported from its own files, or from a folder."""

_SET_ASIDE: dict[str, ModuleType] = {}
"""Modules that `forget` restores: found on Python's search path, with names that the last file has files for."""


def _set_aside(file: UserFile) -> None:
    """Remove modules from elsewhere that would be imported in place of the files in `file.texts`."""
    tops = {Path(one).parts[0].removesuffix(".py") for one in file.texts}
    tops -= {one for one in tops if _is_installed(getattr(sys.modules.get(one), "__spec__", None), one)}
    for name in [one for one in sys.modules if one.partition(".")[0] in tops]:
        _SET_ASIDE[name] = sys.modules.pop(name)


def _is_installed(spec: ModuleSpec | None, top: str) -> bool:
    """Whether a module is a built-in or installed one, or part of this program, and no file of a user's."""
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
    """Loads a module from a text. Tracebacks and debuggers show the path that the text was read from."""

    def __init__(self, name: str, path: str, text: bytes) -> None:
        super().__init__(name, path)
        self._text = text

    def get_data(self, path: str) -> bytes:
        return self._text

    def path_stats(self, path: str) -> Mapping[str, Any]:
        # Without these stats, no byte code is read or written.
        raise OSError


class _Beside:
    """Finds modules that are not installed: among the texts of a user's file, and then in a folder."""

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
            # A package whose __init__.py is empty or missing.
            package = ModuleSpec(name, None, is_package=True)
            package.submodule_search_locations = [str(Path(self._file.root) / stem)]
            return package
        return None


def _spec(name: str, path: Path, text: bytes) -> ModuleSpec:
    inner = [str(path.parent)] if path.name == "__init__.py" else None
    loader = _Text(name, str(path), text)
    found = importlib.util.spec_from_file_location(name, path, loader=loader, submodule_search_locations=inner)
    assert found is not None, "it has a loader"
    return found


def _executed(file: UserFile) -> ModuleType:
    # A new name for a new text: a class that was pickled or cached belongs to one text.
    name = f"{_PREFIX}{hashlib.sha256(f'{file.path} {file.digest}'.encode()).hexdigest()[:16]}"
    spec = _spec(name, Path(file.path), file.texts[file.main])
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    assert spec.loader is not None, "it is the text's"
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _spec_of(module: str) -> ModuleSpec | None:
    """Where Python would find a module; None if it would not. `importlib.util.find_spec` would run parent packages."""
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
