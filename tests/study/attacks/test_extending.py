"""docs/extending.md as it is written: its parts conform, and its attacks run on two Ray workers, and continue."""

from __future__ import annotations

import re
import time

import polars as pl
import pytest
import yaml

from tests.conftest import ROOT
from tests.undisturbed.undisturbed import Launched, assert_undisturbed, launch

PAGE = (ROOT / "docs" / "extending.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)

SPEC = {
    "study": "own",
    "seed": 7,
    "images": {"sample": "foolbox", "size": 48, "keep": "all", "count": 4},
    "models": {
        "b": {"network": "torchvision:squeezenet1_1", "weights": "random:1", "size": 48},
        "c": {"network": "timm:test_resnet", "weights": "random:2", "size": 48},
    },
    "experiments": {
        "each": {"attacks": ["turned", "rooted"], "sources": "each"},
        "all": {"attacks": ["followed"], "sources": "all"},
    },
    "numerics": {"batch": 2, "threads": 1},
    "run": {"shard": 2, "actors": 2},
}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A folder with `mine.py` and `spec.yaml` as the page has them."""
    (tmp_path / "mine.py").write_text("".join(text for kind, text in BLOCKS if kind == "python"))
    attacks = [yaml.safe_load(text).get("attacks", {}) for kind, text in BLOCKS if kind == "yaml"]
    spec = SPEC | {"attacks": {name: keys for one in attacks for name, keys in one.items()}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("component", ["Turn", "Root", "InTurn", "Blurred", "Coarse"])
def test_the_parts_conform(written, door, component):
    status, printed, error = door("attacks", "check", f"mine.py:{component}")
    assert status == 0, printed + error


def test_the_attacks_run_on_two_workers_and_continue(written, door):
    status, _, error = door("launch", "spec.yaml")
    assert status == 2
    assert "--allow-code" in error
    done = launch("spec.yaml", "--output", written / "run", "--allow-code", "--limit", 3, here=written)
    assert_undisturbed(done, written / "run", ended_with=1)
    # The rest in this process: a second start of Ray would show nothing more.
    status, printed, error = door("launch", "spec.yaml", "--output", "run", "--allow-code")
    assert_undisturbed(Launched(status, printed + error, time.time()), written / "run")
    rows = pl.read_parquet(written / "run" / "results")
    assert set(rows["attack"]) == {"turned", "rooted", "followed"}
    assert rows["linf"].max() == 16
    assert rows.filter(pl.col("attack") == "turned")["gradients"].max() == 2 * 5
    status, _, error = door("show", written / "run")
    assert status == 0, error
    (written / "mine.py").write_text((written / "mine.py").read_text() + "\n# changed\n")
    status, _, error = door("launch", "spec.yaml", "--output", "run", "--allow-code")
    assert status == 2
    assert "sha256" in error


def test_every_kind_of_the_table_exists():
    from study.attacks import kinds

    named = re.findall(r"^\| `.*?\| `(\w+)`", PAGE, re.MULTILINE)
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert len(rows) == len(kinds.KINDS) - 1, "backward and forward share a row"
    assert all(issubclass(getattr(kinds, name), kinds.Component) for name in named)
