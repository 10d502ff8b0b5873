"""A study that is tracked offline: what W&B's own file has of it, after kills too, and what `wandb sync` makes."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from study.results.run_reader import open_run
from study.tracking import logs
from tests.study.tracking.conftest import content, history, records, wandb_id
from tests.study.tracking.service import KEY, serving


@pytest.fixture(scope="module")
def sync(tmp_path_factory):
    """Runs the command that a launch has printed, and returns the history that the server has then."""

    def run(printed: str, name: str) -> list[dict]:
        (command,) = re.findall(r"W&B: upload it with: (wandb sync .*)", printed)
        words = shlex.split(command)
        words[0] = str(Path(sys.executable).parent / "wandb")
        with serving() as (service, address):
            environment = {**os.environ, "WANDB_BASE_URL": address, "WANDB_API_KEY": KEY, "WANDB_ERROR_REPORTING": "0"}
            # W&B writes its logs to where it is called from.
            here = tmp_path_factory.mktemp("sync")
            subprocess.run(words, env=environment, cwd=here, check=True, capture_output=True, timeout=120)
            return service.history(name)

    return run


@pytest.fixture(scope="module")
def services():
    """W&B's service processes that there were before."""
    return _services()


def _services() -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"wandb-core" in path.read_bytes():
                found.add(int(path.parent.name))
        except OSError:
            continue
    return found


def test_everything_is_in_the_file(tracked, tmp_path, services):
    run = tmp_path / "run"
    status, printed = tracked(run)
    assert status == 0, printed
    assert "Traceback" not in printed
    rows = history(run)
    steps = [row["_step"] for row in rows]
    assert steps == sorted(set(steps))
    assert [(row["_step"], row["units"]) for row in content(rows)] == [(1000 * n, n) for n in range(1, 37)]
    keys = {key for row in rows for key in row}
    for wanted in (
        "images", "gradients", "transfer/single-targeted/black_box", "transfer/single-untargeted/white_box",
        "success/b-mi-untargeted-s7/c", "success_low/b-mi-untargeted-s7/c", "success_high/c-fgs-targeted-s7/b",
        "rmsd/b-mi-untargeted-s7/c", "matrix", "matrix_picture", "live/units_done", "live/units_per_second",
        "live/images_per_second", "live/gradients_per_second", "live/failures", "live/seconds",
    ):  # fmt: skip
        assert wanted in keys, wanted
    everything = records(run)
    (begun,) = [record.run for record in everything if record.HasField("run")]
    assert (begun.run_id, begun.project) == (wandb_id(run), "study")
    config = {
        update.key or update.nested_key[0]: json.loads(update.value_json)
        for record in everything
        for part in (record.run.config.update, record.config.update)
        for update in part
    }
    spec = open_run(str(run)).spec
    assert config["spec"] == spec.model_dump(mode="json")
    assert config["models"] == json.loads((run / "models.json").read_text())
    assert {"torch", "study", "wandb", "python"} <= set(config["versions"])
    artifacts = {record.artifact.name: record.artifact for record in everything if record.HasField("artifact")}
    assert {entry.path for entry in artifacts[f"study-{wandb_id(run)}"].manifest.contents} == {
        "cells.csv", "matrix.png", "spec.json",
    }  # fmt: skip
    assert f"run-{wandb_id(run)}-matrix" in artifacts
    assert "report" in {artifact.type for artifact in artifacts.values()}
    assert everything[-1].HasField("exit")
    assert everything[-1].exit.exit_code == 0
    assert _services() <= services


def test_history_after_three_kills_is_that_of_an_undisturbed_run(tracked, tmp_path, sync):
    calm, run = tmp_path / "calm", tmp_path / "run"
    assert tracked(calm)[0] == 0
    for kill, hard in ((5, True), (6, False), (4, True)):
        assert tracked(run, kill=kill, hard=hard)[0] is None
    status, printed = tracked(run)
    assert status == 0, printed
    assert content(history(run)) == content(history(calm))
    steps = [row["_step"] for row in history(run)]
    assert steps == sorted(set(steps))
    uploaded = sync(printed, wandb_id(run))
    assert content(uploaded) == content(history(run))


@pytest.mark.slow
def test_a_log_that_has_lost_its_end_is_continued_where_it_ends(tracked, tmp_path):
    calm, run = tmp_path / "calm", tmp_path / "run"
    assert tracked(calm)[0] == 0
    assert tracked(run, kill=15, hard=False)[0] is None
    (first,) = logs.logged(run / "tracking", wandb_id(run))
    first.log.write_bytes(first.log.read_bytes()[: first.log.stat().st_size * 2 // 3])
    (shorter,) = logs.logged(run / "tracking", wandb_id(run))
    assert 0 < shorter.last_step < first.last_step
    assert tracked(run)[0] == 0
    assert content(history(run)) == content(history(calm))


def test_a_complete_study_is_tracked_from_its_rows_and_not_twice(tracked, tmp_path):
    run = tmp_path / "run"
    assert tracked(run, "disabled")[0] == 0
    assert not (run / "tracking").exists()
    status, printed = tracked(run)
    assert status == 0
    assert "already complete" in printed
    assert [row["units"] for row in content(history(run))] == list(range(1, 37))
    tracked(run)
    assert len(logs.logged(run / "tracking", wandb_id(run))) == 1
