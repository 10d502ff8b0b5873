"""Import the optional packages of attacks. If a package is missing, the error says what to install."""

from __future__ import annotations

import importlib
import importlib.metadata
from pathlib import Path
from types import ModuleType

from study.distribution import installing
from study.errors import StudyError, first_line

TESTED = {"torchattack": "1.7.2", "torchattacks": "3.5.1", "foolbox": "3.3.4"}
"""The versions of the packages with which the tests compare this project's results."""


def package(name: str) -> ModuleType:
    """Import and return a package.

    Raises StudyError if the package is missing or cannot be imported. The error says what to install.
    """
    version(name)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise StudyError(
            f"{name} is installed, but cannot be imported: {first_line(error)}",
            todo=f"pip install {error.name}" if error.name else f"pip install --force-reinstall {name}",
        ) from error


def version(name: str) -> str:
    """Return the installed version of a package.

    Raises StudyError if the package is missing. The error says what to install.
    """
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise StudyError(
            f"the package {name} is not installed",
            accepted=f"{name} {TESTED[name]}, the version with which this program is tested",
            todo=f"pip install {name}=={TESTED[name]} on every machine, or {installing('attacks')}",
        ) from None


def folder(name: str) -> Path:
    """Return the folder of a package."""
    path = package(name).__file__
    assert path is not None, "the package has an __init__.py"
    return Path(path).resolve().parent
