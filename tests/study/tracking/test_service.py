"""A study that is tracked online: what reaches the server, and that no server can do anything to the study."""

from __future__ import annotations

import json
import re
import time

import polars as pl
import pytest
import yaml

from study.tracking.client import END_SECONDS, TrackingClient
from tests.conftest import rows
from tests.study.tracking.conftest import SMALL, UNITS, content, wandb_id
from tests.study.tracking.service import KEY, hostile, serving
from tests.undisturbed.undisturbed import Launched, assert_one_whole_run, assert_undisturbed


@pytest.fixture
def service(monkeypatch):
    with serving() as (service, address):
        monkeypatch.setenv("WANDB_BASE_URL", address)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield service


@pytest.fixture
def calm(finished):
    return rows(finished(yaml.safe_dump(SMALL)))


def dead(what):
    raise ConnectionResetError("on purpose")


@pytest.fixture
def from_here(tracked, monkeypatch, tmp_path):
    """`tracked`, with the seconds that the end took."""
    took = []
    ended = TrackingClient.ended

    def timed(client, event):
        begun = time.monotonic()
        ended(client, event)
        took.append(time.monotonic() - begun)

    monkeypatch.setattr(TrackingClient, "ended", timed)

    def run(*arguments, **more):
        took.clear()
        return (*tracked(*arguments, **more), max(took, default=0.0))

    return run


def test_a_study_online(tracked, service, tmp_path):
    """Undisturbed: all of its history, tables and artifacts arrive, the run is finished, and nothing was mended."""
    run = tmp_path / "run"
    status, printed = tracked(run, "online")
    assert_undisturbed(Launched(status, printed, time.time()), run)
    name = wandb_id(run)
    there = service.run(name)
    assert [row["units"] for row in content(service.history(name))] == list(range(1, UNITS + 1))
    assert there["exit"] == 0
    assert all(artifact["committed"] for artifact in there["artifacts"].values())
    results, report = (there["artifacts"][f"{kind}-{name}"] for kind in ("study", "report"))
    assert set(results["files"]) == {"cells.csv", "matrix.png", "spec.json", "manifest"}
    cells = pl.read_csv(results["files"]["cells.csv"])
    assert cells.height == 12 * 2
    assert results["files"]["matrix.png"].startswith(b"\x89PNG")
    assert b"</html>" in report["files"]["report.html"]
    (table,) = [artifact for artifact in there["artifacts"].values() if artifact["type"] == "run_table"]
    (kept,) = [body for file, body in table["files"].items() if file.endswith(".table.json")]
    assert len(json.loads(kept)["data"]) == cells.height
    assert any(file.startswith("media/images/matrix_picture") for file in there["files"])
    assert_one_whole_run(run, prefix="run-")


def test_a_study_online_and_online_again_after_a_kill(tracked, service, tmp_path):
    run = tmp_path / "run"
    assert tracked(run, "online", kill=9)[0] is None
    status, printed = tracked(run, "online")
    assert status == 0, printed
    assert f"W&B: {service.address}/" in printed
    assert "launch" not in printed.split("complete in")[1]
    there = service.history(wandb_id(run))
    assert [row["units"] for row in content(there)] == list(range(1, UNITS + 1))
    steps = [row["_step"] for row in there]
    assert steps == sorted(set(steps))
    assert {"single"} == set(service.run(wandb_id(run))["config"]["spec"]["value"]["experiments"])
    assert {name.rsplit("-", 2)[0] for name in service.run(wandb_id(run))["artifacts"]} >= {"study", "report"}


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_a_hostile_server_changes_no_row_and_delays_the_end_by_little(from_here, service, calm, tmp_path, seed):
    service.fault = hostile(seed)
    status, printed, seconds = from_here(tmp_path / "run", "online")
    assert status == 0, printed
    assert rows(tmp_path / "run").equals(calm)
    assert seconds < END_SECONDS + 5
    assert "Traceback" not in printed


def test_a_server_that_was_never_there(from_here, service, calm, tmp_path):
    """The study is tracked offline, and all of it is there to be uploaded."""
    service.fault = dead
    status, printed, seconds = from_here(tmp_path / "run", "online")
    assert status == 0, printed
    assert rows(tmp_path / "run").equals(calm)
    assert seconds < END_SECONDS + 5
    assert "repaired: tracking: W&B failed, so the study is tracked offline from now on" in printed
    assert re.search(r"W&B: upload the run with: wandb sync \S+offline-run-\S+", printed)


def test_a_server_that_goes_away_is_sent_the_rest_by_the_next_launch(from_here, service, calm, tmp_path):
    run = tmp_path / "run"

    def goes_away(what):
        if any("UpsertBucket" in one for one in service.requests[:-1]) and "UpsertBucket" not in what:
            dead(what)

    service.fault = goes_away
    status, printed, seconds = from_here(run, "online")
    assert status == 0, printed
    assert rows(run).equals(calm)
    assert seconds < END_SECONDS + 5
    assert re.search(r"this command sends it: study launch \S+ --output \S+ --wandb online", printed)
    service.fault = lambda what: None
    status, printed, _ = from_here(run, "online")
    assert status == 0, printed
    assert [row["units"] for row in content(service.history(wandb_id(run)))] == list(range(1, UNITS + 1))


def test_without_a_key_it_is_tracked_offline(from_here, service, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY")
    status, printed, _ = from_here(tmp_path / "run", "online")
    assert status == 0, printed
    assert "tracked offline from now on" in printed
    assert "wandb sync" in printed
    assert pl.read_parquet(tmp_path / "run" / "results" / "*.parquet").height
