"""The source keeps its structure, and the checker finds every kind of violation that a planted tree contains."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.structure import check


def test_source_keeps_the_structure():
    assert [str(violation) for violation in check(ROOT)] == []


# Each planted tree: its files, and the violations as `path:line: rule` that the checker must report.
PLANTED = {
    "circle": (
        {"study/a.py": "from study import b", "study/b.py": "from study.a import x"},
        ["study/a.py:1: import circle", "study/b.py:1: import circle"],
    ),
    "circle-behind-type-checking": (
        {
            "study/a.py": "import study.b",
            "study/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from study.a import A",
        },
        ["study/a.py:1: import circle", "study/b.py:3: import circle"],
    ),
    "circle-through-a-function-and-a-third-module": (
        {
            "actors/a.py": "from actors.b import f",
            "actors/b.py": "def f():\n    from . import c",
            "actors/c.py": "from .a import g",
        },
        ["actors/a.py:1: import circle", "actors/b.py:2: import circle", "actors/c.py:1: import circle"],
    ),
    "private-name": (
        {"study/a.py": "_x = 1", "study/b.py": "from study.a import _x"},
        ["study/b.py:1: private import"],
    ),
    "private-module": (
        {"study/_a.py": "x = 1", "actors/b.py": "from study import _a", "cli.py": "import study._a as a"},
        ["actors/b.py:1: private import", "cli.py:1: private import"],
    ),
    "private-attribute-of-a-module": (
        {"study/a.py": "_x = 1", "study/b.py": "from study import a\n_x = a._x"},
        ["study/b.py:2: private attribute"],
    ),
    "private-attribute-of-an-object": (
        {"study/a.py": "def f(run):\n    return run._rows"},
        ["study/a.py:2: private attribute"],
    ),
    "ray": (
        {"study/a.py": "import ray", "actors/launch/b.py": "def f():\n    from ray.util import state"},
        ["actors/launch/b.py:2: ray", "study/a.py:1: ray"],
    ),
    "ray-by-name": ({"study/a.py": "import importlib\nimportlib.import_module('ray')"}, ["study/a.py:2: ray"]),
    "upward-import": (
        {"study/a.py": "import actors.b", "actors/b.py": "import cli", "cli.py": ""},
        ["actors/b.py:1: import direction", "study/a.py:1: import direction"],
    ),
    "process": (
        {"study/a.py": "import subprocess as s\ns.run(['ls'])", "actors/b.py": "from os import fork\nfork()"},
        ["actors/b.py:2: process", "study/a.py:2: process"],
    ),
    "class-name": (
        {"study/a.py": "class A: ...\nclass _B: ...", "actors/b.py": "\nclass A: ...\nclass _B: ..."},
        ["actors/b.py:2: class name", "study/a.py:1: class name"],
    ),
    "spec-in-science": (
        {"study/attacks/a.py": "from study.spec import loading", "study/spec/loading.py": ""},
        ["study/attacks/a.py:1: independent science"],
    ),
    "nothing": (
        {
            "study/a.py": "class A:\n    def f(self):\n        self._x = 1\n\ndef g(a):\n    return a._x",
            "study/process/children.py": "import subprocess\nsubprocess.Popen(['ls'])",
            "study/b.py": "import subprocess\nfrom study.a import A\nchild: subprocess.Popen[str]",
            "actors/backends/c.py": "import ray\nimport study.b",
            "actors/workers/ray_actors.py": "import ray",
            "cli.py": "import actors.backends.c",
        },
        [],
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_checker_reports_planted_violations(tmp_path, name):
    files, expected = PLANTED[name]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert [f"{found.path}:{found.line}: {found.rule}" for found in check(tmp_path)] == expected


def test_help_and_specs_need_neither_torch_nor_ray():
    code = (
        "import sys, cli; from pathlib import Path; from study.spec import loading;"
        "loading.load(Path('specs/quickstart.yaml'));"
        "print(sorted({'torch', 'ray', 'timm', 'polars', 'httpx', 'tenacity', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
