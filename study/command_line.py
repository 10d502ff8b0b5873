"""The console script `study`: finds `cli.py`, which is outside this package, and runs it.

This module loads `cli.py` by its path. `import cli` could find a module of another project, because many projects
install a module named `cli`.
"""

from __future__ import annotations

import importlib.util
import sys

from study.distribution import require_own, shipped
from study.process.command import run_command

_MODULE = "study_cli"


def main() -> None:
    """Run the command that `sys.argv` names, and end the process with its exit status."""
    run_command(_run)


def _run() -> None:
    require_own("actors")
    spec = importlib.util.spec_from_file_location(_MODULE, shipped("cli.py"))
    assert spec is not None, "the path of a Python file gives a module"
    assert spec.loader is not None, "a Python file has a loader"
    sys.modules[_MODULE] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.app(prog_name="study")
