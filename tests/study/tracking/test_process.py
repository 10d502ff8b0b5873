"""What the tracking process logs to a service that only remembers it."""

from __future__ import annotations

import multiprocessing
import shutil
from dataclasses import replace

import polars as pl
import pytest

from study.errors import StudyError
from study.planning.plan import Plan
from study.planning.resume import selected, spec_of
from study.storage.run_folder import RunFolder
from study.tracking import final_results
from study.tracking.history import Outline
from study.tracking.messages import Begin, End, RowsWritten
from study.tracking.process import RunLog
from study.tracking.run_files import Logged, logged_path, run_id
from study.tracking.tracker import STRIDE, RunInfo


class Remembers:
    """A tracker; `on_server` is the last step that its server has."""

    address = None

    def __init__(self, folder, on_server=None):
        self.files = folder
        self._on_server = on_server
        self.rows, self.results, self.artifacts, self.status = {}, [], {}, None

    def begin(self, run):
        return self._on_server

    def log(self, row, step):
        assert step > max(self.rows, default=-1)
        self.rows[step] = row

    def log_results(self, cells, picture, step):
        self.results.append((cells, picture.read_bytes()))

    def log_artifact(self, name, kind, files):
        self.artifacts[name] = [file.name for file in files]

    def finish(self, status):
        self.status = status


@pytest.fixture
def plan(tiny_run):
    folder = RunFolder(tiny_run)
    chosen = selected(folder)
    return Plan(spec_of(folder), {name: model["digest"] for name, model in chosen.models.items()}, chosen.shards)


@pytest.fixture
def begin(tiny_run, plan, tmp_path):
    config = {"spec": {"study": "tiny"}}
    info = RunInfo("tiny-0", "tiny", "study", None, None, (), config, tmp_path, online=False)
    return Begin(info, str(tiny_run), Outline.of(plan), replay=True, left=0)


@pytest.fixture
def units(tiny_run):
    return pl.read_parquet(tiny_run / "results" / "**/*.parquet").partition_by("unit")


def opened(begin, tracker):
    return RunLog(begin, tracker, multiprocessing.Pipe(duplex=False)[1])


def test_launches_continue_each_other(begin, units, tmp_path, monkeypatch):
    """A unit that is done again is not logged again; live rows stand between; the last launch has all results."""
    monkeypatch.setattr("study.tracking.process.RESULTS_SECONDS", 300.0)
    first, second = Remembers(tmp_path / "a"), Remembers(tmp_path / "b")
    log = opened(begin, first)
    for unit in units[:9]:
        log.add(unit.lazy())
        log.live({"live/seconds": 1.0})
    log.close(1)
    log = opened(begin, second)
    for unit in units[6:8]:
        log.add(unit.lazy())
    log.complete(RowsWritten({"live/seconds": 2.0}, replay=True))
    log.finish(End(0))
    assert sorted(first.rows) == sorted([STRIDE * n for n in range(1, 10)] + [STRIDE * n + 1 for n in range(1, 10)])
    steps = sorted(second.rows)
    assert steps == [*(STRIDE * n for n in range(10, len(units) + 1)), STRIDE * len(units) + 1]
    assert second.rows[steps[-1]] == {"live/seconds": 2.0, "live/units_done": len(units)}
    assert (first.status, second.status) == (1, 0)
    assert second.artifacts == {
        "study-tiny-0": ["cells.csv", "matrix.png", "spec.json"], "report-tiny-0": ["report.html"],
    }  # fmt: skip
    ((cells, picture),) = second.results
    assert (cells.height, picture[:4]) == (len(begin.outline.names), b"\x89PNG")
    logged = Logged.read(logged_path(tmp_path, "tiny-0"))
    assert logged == Logged(steps[-1], [str(tmp_path / "a"), str(tmp_path / "b")], unsent=False)


def test_the_server_decides_what_it_is_sent(begin, units, tmp_path):
    Logged(20_000, ["somewhere"]).write(logged_path(tmp_path, "tiny-0"))
    tracker = Remembers(tmp_path, on_server=5 * STRIDE + 3)
    log = opened(replace(begin, run=replace(begin.run, online=True)), tracker)
    log.replay()
    assert min(tracker.rows) == 6 * STRIDE
    assert Logged.read(logged_path(tmp_path, "tiny-0")) == Logged(max(tracker.rows), [], unsent=True)


def test_a_plan_keeps_its_id_and_another_plan_gets_a_number(tiny_run, plan, tmp_path):
    folder = RunFolder(shutil.copytree(tiny_run, tmp_path / "run"))
    first = run_id(folder, plan)
    assert first.startswith(f"{plan.spec.study}-")
    assert run_id(folder, plan) == first
    smaller = Plan(plan.spec, plan.digests, plan.shards[:-1])
    assert run_id(folder, smaller) == f"{first}-2"
    assert (run_id(folder, plan), run_id(folder, smaller)) == (first, f"{first}-2")
    folder.tracked.write_text("{")
    with pytest.raises(StudyError, match=r"tracked\.json is damaged"):
        run_id(folder, plan)


def test_the_picture_has_cells_without_a_rate():
    keys = {"sources": "a", "attack": "mi", "goal": "untargeted", "seed": 0, "steps": 1, "budget": None}
    rows = [{**keys, "target": "a", "success": 0.5}, {**keys, "sources": "b", "target": "b", "success": 1.0}]
    assert final_results.matrix(pl.DataFrame(rows)).startswith(b"\x89PNG")
