"""The house rules that a machine can check: who imports whom, and how fast the door opens."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.conftest import ROOT

ABOVE = {"study": {"ray", "actors", "cli"}, "actors": {"cli"}}
LEAVES = ("attacks", "images", "models")


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("package", ABOVE)
def test_imports_run_downwards(package):
    for path in (ROOT / package).rglob("*.py"):
        for name in imported(path):
            assert name.split(".")[0] not in ABOVE[package], f"{path} imports {name}"


def test_only_one_file_knows_ray():
    knows = {
        path.name for path in (ROOT / "actors").rglob("*.py") if any(n.split(".")[0] == "ray" for n in imported(path))
    }
    assert knows == {"ray_backend.py"}


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaves_know_nothing_of_spec_and_plan(leaf):
    for path in (ROOT / "study" / leaf).rglob("*.py"):
        assert not {"study.spec.schema", "study.planning.plan"} & set(imported(path)), path


def test_private_modules_stay_private():
    for path in [*(ROOT / "actors").rglob("*.py"), ROOT / "cli.py"]:
        assert not any(
            part.startswith("_") for name in imported(path) for part in name.split(".") if part != "__future__"
        )


def test_help_and_specs_need_neither_torch_nor_ray():
    code = (
        "import sys, cli; from pathlib import Path; from study.spec import loading;"
        "loading.load(Path('specs/quickstart.yaml'));"
        "print(sorted({'torch', 'ray', 'timm', 'polars', 'requests'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


STARTERS = {"Popen", "run", "call", "check_call", "check_output", "system", "popen", "fork", "Process"}


def test_only_one_file_starts_processes():
    """What a process is given is decided in one place: `study/process/children.py`."""
    for package in ("study", "actors"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    library, name = node.value.id, node.attr
                    # An annotation may name what another library has started.
                    reads = path.name == "process.py" and name == "Popen"
                    starts = library in {"subprocess", "os", "multiprocessing"} and name in STARTERS
                    assert path.name == "children.py" or reads or not starts, f"{path}: {library}.{name}"
