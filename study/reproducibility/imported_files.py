"""Find the user's files that a network's or component's source imports: like the source, they are part of its id."""

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
    """Return the SHA-256 of each text that `texts` returns, by relative path."""
    return {name: hashlib.sha256(text).hexdigest() for name, text in texts(path, root).items()}


def texts(path: Path, root: Path) -> dict[str, bytes]:
    """Return the texts of `path` and of all sources under `root` that it imports, directly or not, by relative path.

    Imports are read from the text, so modules that were imported before make no difference. Imports by a computed name
    are not found. Empty files are left out. For an installed module, only files of its own package are returned. The
    result is empty if `path` is not under `root`.
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
    """The folder that contains the module, or its outermost package."""
    folder = path.resolve().parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def is_installed(path: Path) -> bool:
    """Whether a file or folder belongs to Python, or to an installed package."""
    return any(path.resolve().is_relative_to(one) for one in _INSTALLED)


def _foreign(path: Path, root: Path) -> bool:
    """Whether a source is not the user's own: outside `root`, part of this program, or installed."""
    if not path.is_relative_to(root) or path.is_relative_to(_OURS):
        return True
    return root not in _INSTALLED and is_installed(path)


def _packages(path: Path, root: Path) -> Iterator[Path]:
    """The `__init__.py` files of the packages around a module, which run before it."""
    for folder in path.relative_to(root).parents:
        package = root / folder / "__init__.py"
        if folder != Path() and package.is_file():
            yield package


def _top(path: Path, root: Path) -> str:
    return Path(path.relative_to(root).parts[0]).stem


def _imported(text: bytes, path: Path, root: Path) -> Iterator[str]:
    """The absolute dotted names that a source imports: modules, or names inside modules."""
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
    """The sources under `root` that run on `import name`."""
    place = root
    for part in name.split("."):
        place /= part
        for file in (place / "__init__.py", place.with_name(f"{part}.py")):
            if file.is_file():
                yield file.resolve()
