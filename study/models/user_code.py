"""Networks from the user's own code: `python:<module>:<function>`, or a file in place of the module.

The function runs with all rights of the user who starts the study, so no code runs without permission.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from study.errors import StudyError, names
from study.models.classifier import Preprocessing
from study.models.imported_files import root_of, sources
from study.models.reference import Model
from study.reproducibility.hashing import canonical

_NEEDED = ("size", "mean", "std")
_WEIGHTS = ("own", "file", "random")
_PREFIX = "study_code_"
_IMPORTED: set[str] = set()
"""Names of the modules that the last file imported from its own folder."""


def check(name: str, model: Model, *, allowed: bool) -> None:
    """Raise StudyError if code is not `allowed` or cannot be found, or the spec does not define the network's input."""
    if not allowed:
        raise _forbidden(f"model '{name}'", model)
    kind = (model.weights or "own").partition(":")[0]
    if kind not in _WEIGHTS:
        raise StudyError(
            f"model '{name}' is your own code, which has no weights '{model.weights}'",
            accepted="weights: own (loaded by the function), file:<path>, random:<seed>",
            todo=f"correct the weights of model '{name}'",
        )
    missing = [key for key in _NEEDED if getattr(model, key) is None]
    if missing:
        raise StudyError(
            f"model '{name}' is your own code, and the spec does not define its input: {', '.join(missing)} missing",
            accepted="size in pixels; mean and std, one number for each channel, for images scaled to 0..1",
            todo=f"add {', '.join(missing)} to model '{name}'",
        )
    where, _ = _parts(model)
    if not (Path(where).is_file() if _is_file(where) else _known(where)):
        raise _not_found(model)


def build(model: Model, *, allowed: bool) -> tuple[nn.Module, str]:
    """Call the function with the model's `arguments`; return the network and its identity for the digest.

    Only this function runs the user's code, so it checks `allowed` itself. The identity contains the SHA-256 of the
    function's source and of the files that it imports from its folder, but no paths. Raises StudyError if code is not
    allowed, the function does not exist, or it does not return a network. Exceptions of the function pass through.
    """
    if not allowed:
        raise _forbidden("a model", model)
    where, called = _parts(model)
    with _imports_from_folder(where):
        return _built(model, where, called)


def _built(model: Model, where: str, called: str) -> tuple[nn.Module, str]:
    module = _module(model, where)
    function = getattr(module, called, None)
    if not callable(function):
        found = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise StudyError(f"{where} has no function '{called}'", accepted=names(found, called))
    arguments: Mapping[str, Any] = model.arguments
    built = function(**arguments)
    if not isinstance(built, nn.Module):
        raise StudyError(
            f"{model.network} returned {type(built).__name__}, not a network",
            accepted="a function that returns a torch.nn.Module",
        )
    own = _source(function, module)
    root = Path(where).resolve().parent if _is_file(where) else root_of(Path(module.__file__ or own))
    text = hashlib.sha256(own.read_bytes()).hexdigest()
    others = dict(pair for path in (Path(module.__file__ or own), own) for pair in sources(path, root).items())
    if own.resolve().is_relative_to(root.resolve()):
        others.pop(own.resolve().relative_to(root.resolve()).as_posix(), None)
    imported = f" beside {sorted(others.items())}" if others else ""
    return built, f"python:{called} {text} {canonical(arguments)}{imported}"


def _forbidden(called: str, model: Model) -> StudyError:
    return StudyError(
        f"{called} is your own code ({model.network}), which may not run without permission",
        accepted="--allow-code, for code that you trust: it runs with all your rights",
        todo="read the code, then add --allow-code to the command; or remove the model",
    )


def preprocessing(model: Model) -> Preprocessing:
    """The preprocessing in the spec, which `check` has found complete."""
    assert model.size is not None, "checked"
    assert model.mean is not None, "checked"
    assert model.std is not None, "checked"
    return Preprocessing(size=model.size, interpolation="bilinear", mean=model.mean, std=model.std)


def _parts(model: Model) -> tuple[str, str]:
    where, _, function = model.name.rpartition(":")
    return where, function


def _is_file(where: str) -> bool:
    return where.endswith(".py")


def _known(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _module(model: Model, where: str) -> ModuleType:
    if not _is_file(where):
        if not _known(where):
            raise _not_found(model)
        return importlib.import_module(where)
    path = Path(where).resolve()
    if not path.is_file():
        raise _not_found(model)
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


@contextlib.contextmanager
def _imports_from_folder(where: str) -> Iterator[None]:
    """Let a file import modules from its own folder, after installed ones; forget the modules of an earlier file."""
    if not _is_file(where):
        yield
        return
    folder = str(Path(where).resolve().parent)
    for name in _IMPORTED:
        sys.modules.pop(name, None)
    _IMPORTED.clear()
    importlib.invalidate_caches()
    before = set(sys.modules)
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        _IMPORTED.update(name for name in set(sys.modules) - before if _lies_in(folder, name, before))


def _lies_in(folder: str, name: str, before: Collection[str]) -> bool:
    """Whether a module lies directly in `folder`, not deeper, where installed packages may lie."""
    path, (top, *_) = getattr(sys.modules[name], "__file__", None), name.split(".")
    if not path or top in before or not Path(path).is_relative_to(folder):
        return False
    return Path(Path(path).relative_to(folder).parts[0]).stem == top


def _source(function: Callable[..., Any], module: ModuleType) -> Path:
    try:
        found = inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:
        found = None
    path = found or module.__file__
    if path is None or not Path(path).is_file():
        raise StudyError(
            f"the source of {getattr(function, '__name__', 'the function')} cannot be found",
            accepted="a function in a .py file: its source is part of the model's identity",
        )
    return Path(path)


def _not_found(model: Model) -> StudyError:
    where, _ = _parts(model)
    if _is_file(where):
        return StudyError(f"the file {where} of {model.network} does not exist", todo="correct the path")
    return StudyError(
        f"{model.network}: there is no module '{where}'",
        accepted="a module that Python can import, or a file: python:<path>.py:<function>",
        todo="put the module's folder on PYTHONPATH, or name the file",
    )
