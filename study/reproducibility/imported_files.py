"""Finds the user's own files that the source file of a network or component imports.

The id of the network or component depends on the source file and on these files.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_OURS = Path(__file__).resolve().parents[1]
_INSTALLED = tuple(
    Path(path).resolve()
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
    if (path := sysconfig.get_path(name))
)


def sources(path: Path, root: Path) -> dict[str, str]:
    """Return the SHA-256, in hexadecimal, of each file that `texts` returns, by relative path."""
    return {name: hashlib.sha256(text).hexdigest() for name, text in texts(path, root).items()}


def texts(path: Path, root: Path) -> dict[str, bytes]:
    """Return the texts of the file `path` and of all files under `root` that it imports, by path relative to `root`.

    Files that an imported file imports are included. The imports are read from the text of the files, so no code runs.
    Imports by a computed name are not found. Empty files are left out. For an installed module, only files of its own
    package are returned. The result is empty if `path` is not under `root`.
    """
    path, root = path.resolve(), root.resolve()
    if not path.is_relative_to(root):
        return {}
    alone = _top(path, root) if root in _INSTALLED else None
    found: dict[Path, bytes] = {}
    waiting = [path, *_packages(path, root)]
    while waiting:
        one = waiting.pop()
        if one in found or _foreign(one, root) or (alone and _top(one, root) != alone):
            continue
        text = one.read_bytes()
        if not text.strip():
            continue
        found[one] = text
        waiting += [file for name in _imported(text, one, root) for file in _files(name, root)]
    return {one.relative_to(root).as_posix(): text for one, text in sorted(found.items())}


def root_of(path: Path) -> Path:
    """Return the folder that must be on Python's search path to import the module `path`.

    This is the folder that contains the module. For a module in a package, it is the folder that contains the
    outermost package.
    """
    folder = path.resolve().parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def is_installed(path: Path) -> bool:
    """Return whether a file or folder belongs to Python or to an installed package."""
    return any(path.resolve().is_relative_to(one) for one in _INSTALLED)


def _foreign(path: Path, root: Path) -> bool:
    """Return whether a source file is not the user's own: outside `root`, part of this project, or installed."""
    if not path.is_relative_to(root) or path.is_relative_to(_OURS):
        return True
    return root not in _INSTALLED and is_installed(path)


def _packages(path: Path, root: Path) -> Iterator[Path]:
    """Yield the `__init__.py` of each package that contains the module `path`. Python runs these files first."""
    for folder in path.relative_to(root).parents:
        package = root / folder / "__init__.py"
        if folder != Path() and package.is_file():
            yield package


def _top(path: Path, root: Path) -> str:
    return Path(path.relative_to(root).parts[0]).stem


def _imported(text: bytes, path: Path, root: Path) -> Iterator[str]:
    """Yield the absolute dotted names that a source imports: modules, or names inside modules.

    A source with a syntax error yields nothing.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    package = path.relative_to(root).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*above, *([node.module] if node.module else [])))
            yield from (f"{module}.{one.name}" if module else one.name for one in node.names)


def _files(name: str, root: Path) -> Iterator[Path]:
    """Yield the source files under `root` that Python runs on `import name`, packages first."""
    place = root
    for part in name.split("."):
        place /= part
        for file in (place / "__init__.py", place.with_name(f"{part}.py")):
            if file.is_file():
                yield file.resolve()
