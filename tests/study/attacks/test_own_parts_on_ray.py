"""Seven parts from outside the project on two Ray workers: killed, and continued with the same rows."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import polars as pl
import pytest
import yaml

from tests.processes import finish, start, wait_for_parts
from tests.undisturbed.undisturbed import assert_undisturbed, launch

HERE = Path(__file__).parent / "own_parts"
SUM = {"rule": {"python": "ball.py:Sum"}, "length": 12_000}
BASE = {"step": "sign", "steps": 3, "epsilon": 16}

SPEC = {
    "study": "own",
    "seed": 7,
    "images": {"sample": "foolbox", "size": 48, "keep": "all", "count": 6},
    "models": {
        "b": {"network": "torchvision:resnet18", "weights": "random:1", "size": 48},
        "c": {"network": "timm:test_resnet", "weights": "random:2", "size": 48},
    },
    "attacks": {
        "view": BASE | {"views": [{"python": "roll.py:Roll", "copies": 3}]},
        "point": BASE | {"points": [{"python": "memory.py:Memory"}]},
        "objective": BASE | {"objective": {"python": "features.py:Away"}, "fusion": "loss"},
        "backward": BASE | {"backward": [{"python": "backward.py:Damped"}]},
        "ensemble": BASE | {"fusion": {"python": "inner.py:OneByOne"}},
        "program": BASE | {"program": {"python": "program.py:Restarts"}},
        "budget": {"step": "sign", "steps": 3, "step_size": 4, "budget": SUM},
    },
    "experiments": {
        "single": {"attacks": ["view", "point", "objective", "backward", "program", "budget"], "sources": "each"},
        "both": {"attacks": ["ensemble"], "sources": "all"},
    },
    "numerics": {"batch": 2, "threads": 1},
    "run": {"shard": 1, "actors": 2, "flush_seconds": 0},
}

KEYS = ["attack", "sources", "target", "image"]


@pytest.mark.slow
def test_seven_parts_killed_and_continued(tmp_path, monkeypatch):
    for part in HERE.glob("*.py"):
        shutil.copy(part, tmp_path)
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    monkeypatch.chdir(tmp_path)
    undisturbed = tmp_path / "undisturbed"
    assert_undisturbed(launch("spec.yaml", "--output", undisturbed, "--allow-code", here=tmp_path), undisturbed)
    run = tmp_path / "run"
    words = ("launch", "spec.yaml", "--output", run, "--allow-code")
    process = start(*words, folder=tmp_path)
    wait_for_parts(run, 5, process)
    os.kill(process.pid, signal.SIGKILL)
    finish(process)
    status, printed = finish(start(*words, folder=tmp_path))
    assert status == 0, printed
    whole, continued = (pl.read_parquet(one / "results").sort(KEYS) for one in (undisturbed, run))
    same = [*KEYS, "top5", "rmsd", "linf", "gradients", "craft"]
    assert continued.select(same).equals(whole.select(same))
    assert set(continued["attack"]) == set(SPEC["attacks"])
    assert continued["linf"].max() == 16
