"""The installed project: its name on the package index, and the files that it ships outside its packages.

`cli.py` and `specs/` are at the top of a checkout. In a wheel, hatch_build.py puts them into `study/top_level/`,
because a module `cli` or a folder `specs` in site-packages, which all projects share, could belong to another project.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from study.errors import StudyError

NAME = "transfer-study"
"""The name on the package index, for pip and importlib.metadata. The Python package and the command are `study`."""

TOP_LEVEL = "top_level"
"""The name of the folder inside `study/` that holds `cli.py` and `specs` in a wheel."""

_PACKAGE = Path(__file__).resolve().parent


def shipped(name: str) -> Path:
    """Return the path of `name`, which is `cli.py` or `specs`, in a wheel or in a checkout."""
    packed = _PACKAGE / TOP_LEVEL
    return (packed if packed.is_dir() else _PACKAGE.parent) / name


def installing(extra: str) -> str:
    """Return the pip command that installs the packages of an extra of pyproject.toml, such as `wandb`."""
    return f"pip install '{NAME}[{extra}]'"


def require_own(package: str) -> None:
    """Raise StudyError if importing `package` would find no package, or the package of another project."""
    ours = _PACKAGE.parent / package / "__init__.py"
    found = importlib.util.find_spec(package)
    origin = None if found is None else found.origin
    if origin is None or Path(origin).resolve() != ours:
        raise StudyError(
            f"`import {package}` finds {origin or 'nothing'}, which is not the package of {NAME}",
            accepted=str(ours),
            todo=f"if this is a folder `{package}` of yours, start in another folder; else uninstall the project that "
            f"installed it, and install {NAME} again: pip install --force-reinstall --no-deps {NAME}",
        )
