"""The packages that attacks come from. Packages are optional: an error names a missing one when an attack needs it."""

from __future__ import annotations

import importlib
import importlib.metadata
from pathlib import Path
from types import ModuleType

from study.distribution import installing
from study.errors import StudyError, first_line

TESTED = {"torchattack": "1.7.2", "torchattacks": "3.5.1", "foolbox": "3.3.4"}
"""The versions of the packages with which the tests compare our results."""


def package(name: str) -> ModuleType:
    """Import a package. Raises StudyError, which says what to install, if the package cannot be imported."""
    version(name)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise StudyError(
            f"{name} is installed, but cannot be imported: {first_line(error)}",
            todo=f"pip install {error.name}" if error.name else f"pip install --force-reinstall {name}",
        ) from error


def version(name: str) -> str:
    """The installed version of a package. Raises StudyError, which says what to install, if the package is missing."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise StudyError(
            f"the package {name} is not installed",
            accepted=f"{name} {TESTED[name]}, with which this version is tested",
            todo=f"pip install {name}=={TESTED[name]} on every machine, or {installing('attacks')}",
        ) from None


def folder(name: str) -> Path:
    """The folder of a package."""
    path = package(name).__file__
    assert path is not None, "a package with an __init__.py"
    return Path(path).resolve().parent
