"""The scripts in benchmarks/ fit the code that they measure."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import polars as pl
import pytest

from study.analysis import success_rates
from study.results import scanning
from study.results.schema import SCHEMA
from tests.conftest import ROOT

SCRIPTS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))


@pytest.fixture
def script(monkeypatch):
    """Import a script as its command does, with its own folder on the search path, under a name that is not taken."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    before = dict(sys.modules)
    # Scripts import each other by short names, which other tests have for modules of their own.
    for name in SCRIPTS:
        sys.modules.pop(name, None)

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "benchmarks" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    yield load
    for name in {*SCRIPTS, *(f"script_{one}" for one in SCRIPTS)}:
        sys.modules.pop(name, None)
        if name in before:
            sys.modules[name] = before[name]


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_can_be_imported(script, name):
    assert callable(script(name).main)


def test_rows_of_the_large_run_have_the_present_columns(script, tmp_path):
    store = script("store")
    store.make(tmp_path / "run", 1)
    rows = scanning.scan(tmp_path / "run")
    assert rows.collect_schema().names() == SCHEMA.names
    cells = success_rates(rows)
    assert cells.height == len(store.TARGETS)
    assert cells["images"].to_list() == [store.IMAGES] * len(store.TARGETS)
    distances = rows.select(pl.col("ssim", "ciede2000").is_finite().all()).collect()
    assert distances.row(0) == (True, True)
