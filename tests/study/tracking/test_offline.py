"""A study that is tracked offline: what `wandb sync` uploads of it, after kills too."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from study.results.run_reader import open_run
from tests.conftest import ROOT
from tests.study.tracking.conftest import SMALL, UNITS, content, last_values, launcher, logged, synced, wandb_id
from tests.undisturbed.undisturbed import who_holds_files_of


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The study, launched once and undisturbed: its run, what was printed, its history at the server, and the rest."""
    folder = tmp_path_factory.mktemp("calm")
    run = folder / "run"
    with pytest.MonkeyPatch.context() as patched:
        status, printed = launcher(folder, patched)(run)
    assert status == 0, printed
    assert who_holds_files_of(run) == []
    assert _services(folder) == [], "W&B's service goes on"
    (command,) = re.findall(r"W&B: upload the run with: (wandb sync .*)", printed)
    name = wandb_id(run)
    with synced(run, command) as service:
        return run, printed, service.history(name), service.run(name)


def _services(folder: Path) -> list[int]:
    """W&B's service processes of launches in `folder`, whose netrc they have in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            environment = path.with_name("environ").read_bytes()
            if b"wandb-core" in path.read_bytes() and str(folder / "netrc").encode() in environment:
                found.append(int(path.parent.name))
    return found


def _without_empty(data):
    """W&B uploads no empty mapping of a config."""
    if not isinstance(data, dict):
        return data
    return {key: _without_empty(value) for key, value in data.items() if value != {}}


def test_everything_is_there(calm):
    run, printed, rows, there = calm
    name = wandb_id(run)
    assert "Traceback" not in printed
    steps = [row["_step"] for row in rows]
    assert steps == sorted(set(steps))
    assert [(row["_step"], row["units"]) for row in content(rows)] == [(1000 * n, n) for n in range(1, UNITS + 1)]
    keys = {key for row in rows for key in row}
    for wanted in (
        "images", "gradients", "transfer/single-targeted/black_box", "transfer/single-untargeted/white_box",
        "success/b-mi-untargeted-s7/c", "success_low/b-mi-untargeted-s7/c", "success_high/c-fgs-targeted-s7/b",
        "rmsd/b-mi-untargeted-s7/c", "matrix", "matrix_picture", "live/units_done", "live/units_per_second",
        "live/images_per_second", "live/gradients_per_second", "live/failures", "live/seconds",
    ):  # fmt: skip
        assert wanted in keys, wanted
    config = there["config"]
    spec = open_run(str(run)).spec.model_dump(mode="json")
    assert config["spec"]["value"] == _without_empty(spec)
    assert json.loads(there["artifacts"][f"study-{name}"]["files"]["spec.json"]) == spec
    assert config["models"]["value"] == json.loads((run / "models.json").read_text())
    assert {"torch", "study", "wandb", "python"} <= set(config["versions"]["value"])
    results = there["artifacts"][f"study-{name}"]["files"]
    assert {"cells.csv", "matrix.png", "spec.json"} <= set(results)
    assert {artifact["type"] for artifact in there["artifacts"].values()} >= {"results", "report", "run_table"}
    assert there["exit"] == 0


def test_history_after_kills_goes_on_where_it_was(tracked, tmp_path, calm):
    """The tracking process is killed with its driver, then the driver alone, and the last launch completes the rest."""
    run = tmp_path / "run"
    assert tracked(run, kill=9)[0] is None
    _kill_driver(tmp_path / "small.yaml", run, after=6)
    first_launches = logged(run).step
    assert first_launches > 9 * 1000
    status, printed = tracked(run)
    assert status == 0, printed
    with synced(run) as service:
        found = service.history(wandb_id(run))
    _, _, expected, _ = calm
    steps = [row["_step"] for row in found]
    assert steps == sorted(set(steps))
    units = [row["units"] for row in content(found)]
    assert units == sorted(set(units)), "nothing is logged twice"
    # A kill of all processes at once loses what W&B had not written yet; what is logged after it is complete.
    after = first_launches // 1000 + 1
    assert units[units.index(after) :] == list(range(after, UNITS + 1))
    assert last_values(found) == pytest.approx(last_values(expected))


def _kill_driver(spec: Path, run: Path, *, after: int) -> None:
    """Launch in a process of its own, which is killed once `after` units are finished; wait until W&B has ended."""
    code = f"""
import os, signal, time
from pathlib import Path
from rich.console import Console
from actors.backends.in_process import InProcess
from actors.launch.launch import LaunchOptions, launch
from study.tracking.client import TrackingClient
finished, units = TrackingClient.finished, []
def killed(client, event):
    finished(client, event)
    units.append(event)
    if len(units) == {after}:
        time.sleep(3)
        os.kill(os.getpid(), signal.SIGKILL)
TrackingClient.finished = killed
launch(LaunchOptions(Path({str(spec)!r}), Path({str(run)!r}), wandb="offline"), Console(), InProcess)
"""
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    deadline = time.monotonic() + 30
    while who_holds_files_of(run):
        assert time.monotonic() < deadline, "the tracking process goes on"
        time.sleep(0.1)


def test_a_complete_study_is_tracked_from_its_rows_and_not_twice(tracked, finished, tmp_path):
    run = shutil.copytree(finished(yaml.safe_dump(SMALL)), tmp_path / "run")
    assert not (run / "tracking").exists()
    status, printed = tracked(run)
    assert status == 0
    assert "already complete" in printed
    with synced(run) as service:
        assert [row["units"] for row in content(service.history(wandb_id(run)))] == list(range(1, UNITS + 1))
    tracked(run)
    assert len(logged(run).offline) == 1
