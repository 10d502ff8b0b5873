"""`import study` loads nothing heavy, and a strictly typed script can use everything that it offers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import study
from tests.conftest import ROOT

HEAVY = ("torch", "ray", "polars", "numpy", "pydantic", "rich", "matplotlib", "wandb", "actors")

SCRIPT = '''
"""What a user may write: every call of docs/python.md, with its types said."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

import study


def one(folder: Path) -> pl.DataFrame:
    run: study.Run = study.launch("transfer.yaml", output=folder, inline=True, allow_code=False, quiet=True)
    run = study.launch({"study": "x", "models": {}}, output="runs/x", wandb="offline", address="head:6379")
    spec: study.Spec = run.spec
    run = study.launch(spec)
    run = study.load(folder)
    rows: pl.DataFrame = run.rows
    lazy: pl.LazyFrame = run.scan()
    names: tuple[str, ...] = run.models
    attacks: list[str] = [name for one in run.experiments.values() for name in one.attacks]
    images: study.AdversarialImages = run.images("mi", sources=["lite0"], goal="targeted", seed=0, steps=3, budget=8)
    pixels: NDArray[np.uint8] = images.pixels
    ids: tuple[str, ...] = images.ids
    print(rows, lazy, names, attacks, pixels, ids, study.__version__)
    return run.matrix("x", attack="mi", goal="targeted", budget=8.0, steps=10, seed="mean", relation="black")


def two(given: Mapping[str, object]) -> str:
    try:
        return study.launch(given).folder
    except study.StudyError as error:
        return error.what
'''

WRONG = """
import study

study.lauch("x.yaml")
study.launch("x.yaml", inline="yes")
study.load("x").matrix("one", seed="median")
study.load("x").rows = 3
"""


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True, text=True, timeout=600, cwd=ROOT, env=os.environ | environment, check=False,
    )  # fmt: skip


def test_import_is_light():
    done = run("-c", f"import sys, study; print([one for one in {HEAVY} if one in sys.modules])")
    assert done.stdout == "[]\n", done.stderr


def test_names_are_there_and_no_others():
    assert dir(study) == sorted(study.__all__)
    assert all(getattr(study, name) is not None for name in study.__all__)
    assert (study.Run.__name__, study.Spec.__name__, study.StudyError.__name__) == ("Run", "Spec", "StudyError")
    with pytest.raises(AttributeError, match="module 'study' has no attribute 'lauch'"):
        study.lauch  # noqa: B018 - reading it is the test


def test_mypy_strict_accepts_a_users_script(tmp_path):
    """Elsewhere, with mypy's own settings, and a cache of its own: the first time takes a minute."""
    (tmp_path / "right.py").write_text(SCRIPT)
    (tmp_path / "wrong.py").write_text(WRONG)
    cache = ROOT / ".mypy_cache" / "users"
    done = run(
        *("-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent", f"--cache-dir={cache}"),
        *(str(tmp_path / "right.py"), str(tmp_path / "wrong.py")),
        MYPYPATH=str(ROOT),
    )
    # A cache of an earlier run names the folder of that run.
    named = {Path(line.partition(":")[0]).name for line in done.stdout.splitlines()[:-1]}
    assert named == {"wrong.py"}, done.stdout + done.stderr
    lines = sorted({int(line.split(":")[1]) for line in done.stdout.splitlines()[:-1]})
    assert lines == [4, 5, 6, 7], done.stdout
