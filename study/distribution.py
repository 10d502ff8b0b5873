"""The project as it is installed: its name on the package index, and the files that it ships beside its packages.

`cli.py` and `specs/` lie at the top of a checkout. In a wheel they lie in `study/top_level/`, where hatch_build.py puts
them: in the site-packages that all projects share, a module `cli` or a folder `specs` could be another project's.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from study.errors import StudyError

NAME = "transfer-study"
"""The name on the package index, for `pip install` and importlib.metadata. The import and the command are `study`."""

TOP_LEVEL = "top_level"
"""The folder in `study/` of a wheel."""

_PACKAGE = Path(__file__).resolve().parent


def shipped(name: str) -> Path:
    """The path of `cli.py` or `specs`, in a wheel and in a checkout."""
    packed = _PACKAGE / TOP_LEVEL
    return (packed if packed.is_dir() else _PACKAGE.parent) / name


def installing(extra: str) -> str:
    """The command that installs what an extra of pyproject.toml names."""
    return f"pip install '{NAME}[{extra}]'"


def require_own(package: str) -> None:
    """Raise StudyError if `import package` finds the package of another project, or none, in place of ours."""
    ours = _PACKAGE.parent / package / "__init__.py"
    found = importlib.util.find_spec(package)
    origin = None if found is None else found.origin
    if origin is None or Path(origin).resolve() != ours:
        raise StudyError(
            f"`import {package}` finds {origin or 'nothing'}, which is not the package of {NAME}",
            accepted=str(ours),
            todo=f"start elsewhere if a folder `{package}` of yours is found; else uninstall the project that brings "
            f"it, and install {NAME} again: pip install --force-reinstall --no-deps {NAME}",
        )
