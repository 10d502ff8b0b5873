"""An experiment at equal cost, from the spec to its table, against a naive loop over the rows."""

from __future__ import annotations

import statistics

import polars as pl
import yaml

from study import analysis
from study.analysis.experiments import averaged, cells, of_experiment
from study.results.run_reader import open_run
from tests.conftest import rows

SPEC = {
    "study": "cost",
    "images": {"sample": "foolbox", "size": 48, "keep": "all", "count": 4},
    "models": {
        "a": {"network": "timm:test_efficientnet", "weights": "random:3", "size": 64},
        "c": {"network": "timm:test_resnet", "weights": "random:2", "size": 56},
    },
    "experiments": {
        "equal": {"attacks": ["mi", "si", "vmi"], "sources": "each", "at-cost": {"gradients": [4, 10, 25]}},
    },
    "numerics": {"batch": 4, "threads": 1},
}


def test_success_within_each_number_of_gradients(door, tmp_path):
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    run = tmp_path / "run"
    status, printed, error = door("launch", tmp_path / "spec.yaml", "--output", run)
    assert status == 0, error
    every = rows(run)
    # MI takes a gradient a step, SI five; VMI one, and 21 for each further step.
    steps = {
        ("mi-to-25", 4): 4, ("mi-to-25", 10): 10, ("mi-to-25", 25): 25, ("si-to-25", 10): 2, ("si-to-25", 25): 5,
        ("vmi-to-25", 4): 1, ("vmi-to-25", 10): 1, ("vmi-to-25", 25): 2,
    }  # fmt: skip
    found = open_run(str(run))
    table = analysis.at_cost(
        averaged(of_experiment(cells(found.rows, found.spec), found.spec, "equal")), found.spec, "equal"
    )
    assert {(one["attack"], one["cost"]): one["steps"] for one in table.to_dicts()} == steps
    for one in table.to_dicts():
        here = every.filter(relation="black", attack=one["attack"], steps=one["steps"])
        rates = [
            statistics.fmean(row["top1"] != row["label"] for row in here.filter(pl.col("target") == target).to_dicts())
            for target in "ac"
        ]
        assert (one["success"], one["cells"]) == (statistics.fmean(rates), 2)
        assert set(here["gradients"]) == {one["gradients"]}
    # One run of each attack: the prefix is never computed twice.
    assert every.select("attack", "sources").n_unique() == 6
    assert "equal, untargeted: at equal cost" in printed
    page = tmp_path / "page.html"
    assert door("report", run, "--to", page)[0] == 0
    assert "equal, untargeted: at equal cost" in page.read_text()
    assert "25 gradients" in page.read_text()
