"""The installed project: its name on the package index, and the files that it ships outside its packages.

`cli.py` and `specs/` are at the top of a checkout. In a wheel, hatch_build.py puts them into `study/top_level/`,
because a module `cli` or a folder `specs` in site-packages, which all projects share, could belong to another project.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from study.errors import StudyError

NAME = "transfer-study"
"""The name on the package index, for `pip install` and importlib.metadata. The import and the command are `study`."""

TOP_LEVEL = "top_level"
"""The folder in `study/` of a wheel that holds these files."""

_PACKAGE = Path(__file__).resolve().parent


def shipped(name: str) -> Path:
    """The path of `cli.py` or `specs`, in a wheel and in a checkout."""
    packed = _PACKAGE / TOP_LEVEL
    return (packed if packed.is_dir() else _PACKAGE.parent) / name


def installing(extra: str) -> str:
    """The command that installs the packages of an extra of pyproject.toml."""
    return f"pip install '{NAME}[{extra}]'"


def require_own(package: str) -> None:
    """Raise StudyError if `import package` finds the package of another project instead of ours, or no package."""
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
