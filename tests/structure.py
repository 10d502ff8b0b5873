"""Checks that the source keeps the structure described in docs/design.md; `check(root)` returns the violations.

It reads source text only and imports nothing of what it checks, so that it also runs on a planted tree.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Each package, and the packages that it must not import. Imports run one way: cli -> actors -> study.
FORBIDDEN = {"study": {"actors", "cli"}, "actors": {"cli"}, "cli": set()}

# Ray is imported here and nowhere else.
RAY = "ray"
RAY_ROOMS = ("actors/backends/", "actors/workers/ray_actors.py")

# Processes start here and nowhere else, so that one file decides what a child inherits.
PROCESS_STARTER = "study/process/children.py"
STARTERS = {
    "subprocess": {"Popen", "run", "call", "check_call", "check_output", "getoutput", "getstatusoutput"},
    "os": {"system", "popen", "fork", "forkpty", "posix_spawn", "posix_spawnp", "spawnv", "spawnvp", "spawnl"},
    "multiprocessing": {"Process", "Pool", "get_context"},
    "concurrent.futures": {"ProcessPoolExecutor"},
    "asyncio": {"create_subprocess_exec", "create_subprocess_shell"},
}

# Science that must be usable without a spec or a plan.
INDEPENDENT = ("study/attacks/", "study/images/", "study/models/")
SPEC_AND_PLAN = {"study.spec.loading", "study.spec.schema", "study.planning.plan"}

# Underscored names of libraries that have no public equivalent. Names of our own never belong here.
LIBRARY_MODULES = {
    "torch._subclasses.fake_tensor",
    "torch.utils._python_dispatch",
    "torch.utils._pytree",
    "timm.models._hub",
    "torch._dynamo",
    "torch.cuda.jiterator",
}
LIBRARY_ATTRIBUTES = {
    "_exit": "os: documented",
    "_private": "ray",
    "_internal_kv_get": "ray: the state of its autoscaler, and what actors are at",
    "_internal_kv_put": "ray: what actors are at",
    "_internal_kv_del": "ray: what actors are at",
    "_run_exitfuncs": "atexit",
    "_replace": "named tuples: documented",
    "_cdata": "torch: identity of a storage",
    "_parameters": "torch.nn.Module",
    "_forward_hooks": "torch.nn.Module",
    "_forward_pre_hooks": "torch.nn.Module",
}


@dataclass(frozen=True, order=True)
class Violation:
    """One place that breaks one rule."""

    path: str
    line: int
    rule: str
    detail: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.detail}"


@dataclass(frozen=True)
class Import:
    """One imported name: `from module import name as alias`, or `import module as alias` (then `name` is empty)."""

    module: str
    name: str
    alias: str
    line: int

    @property
    def target(self) -> str:
        return f"{self.module}.{self.name}" if self.name else self.module


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name, its syntax tree, and everything that it imports, wherever the import stands."""

    name: str
    path: str
    tree: ast.Module
    imports: tuple[Import, ...]


def check(root: Path) -> list[Violation]:
    """Return all violations in `study/`, `actors/` and `cli.py` under `root`, sorted by path and line."""
    modules = read_modules(root)
    found: set[Violation] = set()
    for module in modules.values():
        found.update(wrong_direction(module))
        found.update(ray_elsewhere(module))
        found.update(spec_in_science(module))
        found.update(private_imports(module))
        found.update(private_attributes(module, modules))
        found.update(processes_elsewhere(module))
    found.update(circles(modules))
    found.update(repeated_class_names(modules))
    return sorted(found)


def read_modules(root: Path) -> dict[str, Module]:
    """Parse every source file, keyed by dotted module name."""
    modules = {}
    paths = [path for package in FORBIDDEN for path in (*(root / package).rglob("*.py"), root / f"{package}.py")]
    for path in sorted(filter(Path.is_file, paths)):
        relative = path.relative_to(root)
        is_package = path.name == "__init__.py"
        name = ".".join((relative.parent if is_package else relative.with_suffix("")).parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imports = tuple(read_imports(tree, name if is_package else name.rpartition(".")[0]))
        modules[name] = Module(name, relative.as_posix(), tree, imports)
    return modules


def read_imports(tree: ast.Module, package: str) -> Iterator[Import]:
    """Yield every import in `tree`: at the top, in functions, behind TYPE_CHECKING, and `import_module("...")`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, "", alias.asname or alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(module, alias.name, alias.asname or alias.name, node.lineno)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                yield Import(node.args[0].value, "", "", node.lineno)


def wrong_direction(module: Module) -> Iterator[Violation]:
    """Yield imports against the direction cli -> actors -> study."""
    for each in module.imports:
        if each.module.partition(".")[0] in FORBIDDEN[module.name.partition(".")[0]]:
            yield Violation(module.path, each.line, "import direction", f"imports {each.target}")


def ray_elsewhere(module: Module) -> Iterator[Violation]:
    """Yield imports of Ray outside its rooms."""
    for each in module.imports:
        if each.module.partition(".")[0] == RAY and not module.path.startswith(RAY_ROOMS):
            yield Violation(module.path, each.line, "ray", f"imports {each.target}")


def spec_in_science(module: Module) -> Iterator[Violation]:
    """Yield imports of the spec and the plan in the packages that are independent of both."""
    for each in module.imports:
        if module.path.startswith(INDEPENDENT) and {each.module, each.target} & SPEC_AND_PLAN:
            yield Violation(module.path, each.line, "independent science", f"imports {each.target}")


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def private_imports(module: Module) -> Iterator[Violation]:
    """Yield imports of private modules and of private names."""
    for each in module.imports:
        if each.module not in LIBRARY_MODULES and any(is_private(part) for part in each.target.split(".")):
            yield Violation(module.path, each.line, "private import", f"imports {each.target}")


def private_attributes(module: Module, modules: dict[str, Module]) -> Iterator[Violation]:
    """Yield `x._y` where this module does not define `_y`: the name belongs to another module."""
    own = set(_defined_names(module.tree))
    aliases = {each.alias: each.target for each in module.imports}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = ast.unparse(node.value)
            foreign = aliases.get(owner) in modules
            if foreign or node.attr not in own | LIBRARY_ATTRIBUTES.keys():
                yield Violation(module.path, node.lineno, "private attribute", f"uses {owner}.{node.attr}")


def _defined_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


def processes_elsewhere(module: Module) -> Iterator[Violation]:
    """Yield functions that start processes, outside their one file; annotations may name their types."""
    if module.path == PROCESS_STARTER:
        return
    aliases = {each.alias: each.target for each in module.imports}
    annotations = set(_annotation_nodes(module.tree))
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Attribute | ast.Name) or node in annotations:
            continue
        first, dot, rest = ast.unparse(node).partition(".")
        library, _, function = f"{aliases.get(first, first)}{dot}{rest}".rpartition(".")
        if function in STARTERS.get(library, ()) or (library == "os" and function.startswith("exec")):
            yield Violation(module.path, node.lineno, "process", f"uses {library}.{function}")


def _annotation_nodes(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            if (annotation := getattr(node, field, None)) is not None:
                yield from ast.walk(annotation)


def circles(modules: dict[str, Module]) -> Iterator[Violation]:
    """Yield one violation for each import that lies on a circle of imports between modules."""
    lines: dict[str, dict[str, int]] = defaultdict(dict)
    for module in modules.values():
        for each in module.imports:
            target = each.target if each.target in modules else each.module
            if target in modules:
                lines[module.name].setdefault(target, each.line)
    for group in strong_components({name: set(lines[name]) for name in modules}):
        for name in sorted(group):
            for target in sorted(group & set(lines[name])):
                others = ", ".join(sorted(group))
                detail = f"imports {target} (circle of {others})"
                yield Violation(modules[name].path, lines[name][target], "import circle", detail)


def repeated_class_names(modules: dict[str, Module]) -> Iterator[Violation]:
    """Yield public classes of one name in several modules: one name stands for one thing."""
    homes: dict[str, list[tuple[Module, int]]] = defaultdict(list)
    for module in modules.values():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not is_private(node.name):
                homes[node.name].append((module, node.lineno))
    for name, places in homes.items():
        for module, line in places if len(places) > 1 else ():
            others = ", ".join(other.name for other, _ in places if other is not module)
            yield Violation(module.path, line, "class name", f"{name} is also defined in {others}")


def strong_components(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the groups of nodes that reach one another, self-loops included (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[set[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for following in sorted(graph[node]):
            if following not in order:
                visit(following)
                low[node] = min(low[node], low[following])
            elif following in stack:
                low[node] = min(low[node], order[following])
        if low[node] == order[node]:
            group = {stack.pop()}
            while node not in group:
                group.add(stack.pop())
            if len(group) > 1 or node in graph[node]:
                groups.append(group)

    for node in graph:
        if node not in order:
            visit(node)
    return groups


if __name__ == "__main__":
    violations = check(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent.parent)
    print(*violations, sep="\n")
    sys.exit(1 if violations else 0)
