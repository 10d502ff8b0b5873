"""A whole study in this process: the same rows to the last bit, however it is cut, ordered, staffed or interrupted."""

from __future__ import annotations

import csv
import io
import random
import shutil
import signal

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image
from rich.console import Console

from actors.backends.in_process import InProcess
from actors.launch.launch import launch
from actors.launch.options import LaunchOptions
from study.images import decoding
from study.images.image_sets import candidates
from study.results.schema import SCHEMA
from study.spec.loading import resolve
from study.spec.yaml_document import parse
from tests.conftest import FEWER, TINY, rows, run_here


def assert_same_rows(run, undisturbed, *, units=True):
    """Equal in every column, to the last bit; `unit` names the cut into shards, and may differ with it."""
    without = () if units else ("unit",)
    ours, theirs = rows(run, without=without), rows(undisturbed, without=without)
    assert ours.height == theirs.height
    assert ours.equals(theirs)


def test_rows_are_the_contract(tiny_run):
    frame = pl.scan_parquet(tiny_run / "results" / "**/*.parquet").collect()
    assert frame.columns == SCHEMA.names
    crafts = 3 * 4 * 2 + 3 * 2
    assert frame.height == crafts * 6 * 3
    assert frame.select("craft", "image", "target").n_unique() == frame.height
    assert set(frame["target"]) == {"a", "b", "c"}
    in_sources = frame["sources"].list.contains(frame["target"])
    assert (frame["relation"] == "white").equals(in_sources)
    assert set(frame["relation"]) == {"white", "black"}
    assert frame["target_label"].is_null().equals((frame["goal"] == "untargeted").alias("target_label"))
    assert (frame["top5"].list.len() == 5).all()
    assert (frame["linf"].filter(frame["attack"] == "mi") <= 16).all()
    assert frame["rmsd"].is_between(0, 255).all()
    np.testing.assert_allclose(frame["l2"], frame["rmsd"] * np.sqrt(3 * 48 * 48))


def test_run_folder_is_the_contract(tiny_run):
    images = pl.read_parquet(tiny_run / "images.parquet")
    assert images.height == 6
    clean = images.explode("clean").unnest("clean")
    assert clean.height == 18
    assert set(clean["model"]) == {"a", "b", "c"}
    joined = rows(tiny_run).join(
        clean.select("image", pl.col("model").alias("target"), pl.col("top5").list.first().alias("said")),
        on=["image", "target"],
    )
    assert joined["clean_top1"].equals(joined["said"].alias("clean_top1"))
    resolved = resolve(parse((tiny_run / "spec.yaml").read_text(), "spec.yaml")).spec
    asked = resolve(parse(TINY, "tiny")).spec
    assert resolved == asked.model_copy(update={"numerics": asked.numerics.settled("cpu")})
    assert {path.suffix for path in (tiny_run / "results").rglob("*") if path.is_file()} == {".parquet"}


def test_matched_budgets_are_met(tiny_run):
    moved = rows(tiny_run).filter(pl.col("relation") == "white", pl.col("sources").list.len() == 1)
    keys = ["sources", "goal", "image"]
    optimization = moved.filter(attack="optimization").select(*keys, pl.col("rmsd").alias("matched"))
    by_image = moved.filter(attack="fg").join(optimization, on=keys)
    assert by_image.height == 36
    assert (by_image["rmsd"] - by_image["matched"]).abs().max() < 0.005
    means = optimization.group_by("sources", "goal").agg(pl.col("matched").mean())
    by_mean = moved.filter(attack="fgs").join(means, on=["sources", "goal"])
    assert by_mean.height == 36
    assert (by_mean["rmsd"] - by_mean["matched"]).abs().max() < 0.005


@pytest.fixture(scope="session")
def fewer_run(finished):
    """The study that most tests of this file run again and again, undisturbed."""
    return finished(FEWER)


@pytest.mark.parametrize(
    ("shard", "workers"), [(4, 1), (6, 2)], ids=["two batches, one worker", "three batches, two workers"]
)
def test_shards_change_nothing(fewer_run, spec_file, tmp_path, shard, workers):
    cut = (f"run.shard={shard}", f"run.actors={workers}", "run.models_per_actor=2")
    status, printed = run_here(spec_file(FEWER), tmp_path / "run", *cut, order=shard)
    assert status == 0, printed
    assert_same_rows(tmp_path / "run", fewer_run, units=False)


@pytest.mark.parametrize(
    ("text", "workers"),
    [
        (FEWER, 4),
        # Fewer have the other shards, above.
        pytest.param(FEWER, 1, marks=pytest.mark.slow),
        pytest.param(FEWER, 2, marks=pytest.mark.slow),
        pytest.param(TINY, 3, marks=pytest.mark.slow),
    ],
    ids=["4", "1", "2", "3, all sources"],
)
def test_actors_change_nothing(finished, spec_file, tmp_path, text, workers):
    staff = f"run.actors={workers}"
    status, printed = run_here(spec_file(text), tmp_path / "run", staff, "run.models_per_actor=2", order=workers)
    assert status == 0, printed
    assert_same_rows(tmp_path / "run", finished(text))


def test_the_order_of_a_list_changes_nothing(spec_file, tmp_path):
    names = [f"{index}.png" for index in range(7)]
    for index, name in enumerate(names):
        pixels = np.random.default_rng(index).integers(0, 256, (60, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    lines = [(name, 10 * index) for index, name in enumerate(names)]
    runs = []
    for attempt in range(2):
        listed = tmp_path / f"list{attempt}.csv"
        with listed.open("w", newline="") as opened:
            csv.writer(opened).writerows(lines)
        random.Random(attempt).shuffle(lines)
        images = {"folder": str(tmp_path), "list": str(listed), "size": 48, "keep": "all", "count": 5}
        spec = yaml.safe_load(FEWER) | {"images": images}
        status, printed = run_here(spec_file(spec, f"{attempt}.yaml"), tmp_path / f"run{attempt}")
        assert status == 0, printed
        runs.append(tmp_path / f"run{attempt}")
    assert rows(runs[0])["image"].n_unique() == 5
    assert_same_rows(*runs)


def test_a_finished_run_says_so(tiny_run, spec_file, tmp_path):
    before = sorted(path.name for path in (tiny_run / "results").iterdir())

    def never():
        raise AssertionError("nothing is to be started for a finished run")

    printed = io.StringIO()
    assert launch(LaunchOptions(spec_file(TINY), tiny_run), Console(file=printed, width=120), never) == 0
    assert "already complete" in printed.getvalue()
    assert "single, targeted" in printed.getvalue()
    assert sorted(path.name for path in (tiny_run / "results").iterdir()) == before


def test_lost_parts_are_run_again_and_no_more(fewer_run, spec_file, tmp_path):
    run = shutil.copytree(fewer_run, tmp_path / "run")
    parts = sorted((run / "results").iterdir())
    for part in parts[::3]:
        part.unlink()
    kept = {part: part.stat().st_mtime_ns for part in (run / "results").iterdir()}
    status, printed = run_here(spec_file(FEWER), run, "run.shard=5")
    assert status == 0, printed
    assert_same_rows(run, fewer_run)
    assert {part: part.stat().st_mtime_ns for part in kept} == kept


class _Sends(InProcess):
    """Sends this process a signal when so many calls have been answered."""

    def __init__(self, number, after):
        super().__init__()
        self.number, self.left = number, after

    def value(self, ref):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(self.number)
        return super().value(ref)


@pytest.mark.parametrize(
    ("number", "expected", "after"),
    [
        pytest.param(signal.SIGINT, 130, 4, id="SIGINT in the clean pass"),
        pytest.param(signal.SIGTERM, 143, 40, id="SIGTERM among units"),
        # The other signal at the same places.
        pytest.param(signal.SIGTERM, 143, 4, id="SIGTERM in the clean pass", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, 40, id="SIGINT among units", marks=pytest.mark.slow),
    ],
)
def test_signals_stop_and_a_launch_goes_on(fewer_run, spec_file, tmp_path, number, expected, after):
    printed = io.StringIO()
    spec, run = spec_file(FEWER), tmp_path / "run"
    status = launch(LaunchOptions(spec, run), Console(file=printed, width=200), lambda: _Sends(number, after))
    assert status == expected
    assert f"Continue with: study launch {spec} --output {run}" in printed.getvalue()
    in_the_clean_pass = after == 4
    assert (run / "images.parquet").exists() != in_the_clean_pass
    assert in_the_clean_pass or 0 < rows(run).height < rows(fewer_run).height
    assert run_here(spec, run)[0] == 0
    assert not (run / "failures.json").exists()
    assert_same_rows(run, fewer_run)


class _Poisoned(InProcess):
    """Fails every craft of the optimization on model b's third shard."""

    def call(self, actor, method, arguments, pixels):
        job = arguments[1]
        optimization = method == "craft" and job.key[1:3] == (("b",), "optimization") and job.goal == "targeted"
        if optimization and self.pixels(pixels).sum() == self.poison:
            arguments = (arguments[0], None)
        return super().call(actor, method, arguments, pixels)


def test_a_poison_unit_is_set_aside(fewer_run, spec_file, tmp_path):
    """What depends on it cannot be crafted either; the rest finishes, the status says so, a launch does the rest."""
    resolved = resolve(parse(FEWER, "tiny")).spec
    files = {one.image: one.file for one in candidates(resolved.images, resolved.seed)}
    shard = pl.read_parquet(fewer_run / "images.parquet").filter(shard=2)["image"]
    backend = _Poisoned()
    backend.poison = sum(int(decoding.read(files[image], resolved.images).sum()) for image in shard)
    printed = io.StringIO()
    spec, run = spec_file(FEWER), tmp_path / "run"
    assert launch(LaunchOptions(spec, run), Console(file=printed, width=200), lambda: backend) == 1
    # The poisoned unit, FG on its shard, and FGS, whose budget is a mean over all shards, on all three.
    assert "5 units are left" in printed.getvalue()
    failures = yaml.safe_load((run / "failures.json").read_text())["failures"]
    assert len(failures) == 5
    assert sum("is matched to b.optimization.targeted" in failure["error"] for failure in failures) == 4
    assert rows(run).height == rows(fewer_run).height - 5 * 2 * 3
    assert run_here(spec, run)[0] == 0
    assert not (run / "failures.json").exists()
    assert_same_rows(run, fewer_run)
