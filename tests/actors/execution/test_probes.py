"""Probes through a whole study in this process: the same rows however it is cut, ordered, staffed or interrupted."""

from __future__ import annotations

import json

import polars as pl
import pytest
import yaml

from actors.execution.probe_runs import ProbeRuns
from actors.workers.worker import Worker
from study.errors import StudyError
from study.geometry import store
from study.geometry.probe_rows import plain_cosines, probe_rows
from study.papers import paper_comparison, published
from study.results.run_reader import open_run
from study.spec.loading import load
from tests.conftest import TINY, run_here

PROBES = {
    "cosine": {"probe": "gradient-cosine", "smoothing": {"copies": [1, 2], "sigma": 15}, "models": ["a", "c"]},
    "plane": {"probe": "regions", "along": {"gradient_of": "a"}, "extent": 40, "points": 3, "images": 1},
    "aimed": {
        "probe": "regions",
        "models": ["c"],
        "along": {"attack": "summed", "sources": ["a", "c"], "goal": "targeted"},
        "points": 3,
        "images": 1,
    },
    "line": {
        "probe": "linearity",
        "along": {"gradient_of": "each"},
        "distances": {"to": 20, "by": 10},
        "models": ["b", "c"],
        "images": 3,
    },
    "parts": {
        "probe": "intervals",
        "along": {"gradient_of": ["a", "c"]},
        "distances": {"to": 20, "by": 10},
        "models": ["b"],
    },
}
CHANGES = {
    "images": {"sample": "foolbox", "size": 48, "keep": "all", "count": 6},
    "geometry": PROBES,
    "experiments": {"one": {"attacks": ["mi"], "sources": ["c"], "targets": ["c"]}},
    "attacks": {"summed": {"preset": "optimization", "steps": 2, "fusion": "summed-updates", "learning_rate": 8}},
}


def rows(run, name):
    """A probe's rows in one order, without their units."""
    found = pl.read_parquet(run / "geometry" / name / "*.parquet").drop("unit")
    return found.sort([one for one in found.columns if one not in {"cosine", "logit", "top1"}])


def assert_same(run, other):
    for name in PROBES:
        assert rows(run, name).equals(rows(other, name)), name


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("geometry")
    (folder / "spec.yaml").write_text(yaml.safe_dump(yaml.safe_load(TINY) | CHANGES))
    status, printed = run_here(folder / "spec.yaml", folder / "run")
    assert status == 0, printed
    return folder


def test_every_probe_has_all_of_its_rows(undisturbed):
    run = undisturbed / "run"
    expected = {"cosine": 6 * 4 * 3, "plane": 3 * 9, "aimed": 9, "parts": 6 * 3}
    assert {name: rows(run, name).height for name in expected} == expected
    line = rows(run, "line")
    assert line.select("image", "model", "distance").unique().height == 3 * 2 * 3
    assert set(rows(run, "aimed")["image"]) <= set(rows(run, "plane")["image"])
    assert {path.suffix for path in (run / "geometry").rglob("*") if path.is_file()} == {".parquet"}


@pytest.mark.parametrize("shard", [3, 6])
def test_shards_order_and_actors_change_nothing(undisturbed, tmp_path, shard):
    overrides = (f"run.shard={shard}", "run.actors=3", "run.models_per_actor=2", "numerics.batch=3")
    status, printed = run_here(undisturbed / "spec.yaml", tmp_path / "run", *overrides, order=shard)
    assert status == 0, printed
    assert_same(tmp_path / "run", undisturbed / "run")


class Stop(Exception):
    pass


def test_what_is_done_is_not_asked_again(undisturbed, tmp_path, monkeypatch):
    asked, real, run = [], Worker.probe, tmp_path / "run"

    def probe(worker, pin, job, pixels):
        asked.append(job.unit)
        return real(worker, pin, job, pixels)

    handled, most = ProbeRuns.handle, 7

    def handle(probes, event):
        if len(asked) > most:
            raise Stop
        handled(probes, event)

    monkeypatch.setattr(Worker, "probe", probe)
    monkeypatch.setattr(ProbeRuns, "handle", handle)
    with pytest.raises(Stop):
        run_here(undisturbed / "spec.yaml", run)
    spec = load(undisturbed / "spec.yaml").spec
    done = {unit for units in store.done(run, spec.geometry).values() for unit in units}
    assert done == set(asked[:most])
    asked.clear()
    monkeypatch.setattr(ProbeRuns, "handle", handled)
    status, printed = run_here(undisturbed / "spec.yaml", run)
    assert status == 0, printed
    assert not done & set(asked)
    assert len(asked) == len(set(asked))
    assert_same(run, undisturbed / "run")
    asked.clear()
    status, printed = run_here(undisturbed / "spec.yaml", run)
    assert (status, asked) == (0, [])
    assert "already complete" in printed


def test_what_fails_is_set_aside_and_tried_again(undisturbed, tmp_path, monkeypatch):
    real, run = Worker.probe, tmp_path / "run"

    def probe(worker, pin, job, pixels):
        if job.question.name == "line" and job.question.models == ("c",):
            raise StudyError("the gradient is not finite")
        return real(worker, pin, job, pixels)

    monkeypatch.setattr(Worker, "probe", probe)
    status, printed = run_here(undisturbed / "spec.yaml", run)
    assert status == 1
    failures = json.loads((run / "failures.json").read_text())["failures"]
    left = len(failures)
    assert 0 < left <= 3
    assert all(one["unit"].startswith("line.c.") and "not finite" in one["error"] for one in failures)
    assert f"{left} units are left" in printed
    assert set(rows(run, "line")["model"]) == {"b"}
    monkeypatch.setattr(Worker, "probe", real)
    status, printed = run_here(undisturbed / "spec.yaml", run)
    assert status == 0, printed
    assert_same(run, undisturbed / "run")


def test_images_that_are_not_selected_are_refused(undisturbed, tmp_path):
    probe = PROBES["plane"] | {"images": ["imagenet_11_631.jpg"]}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(yaml.safe_load(TINY) | CHANGES | {"geometry": {"plane": probe}}))
    with pytest.raises(StudyError) as caught:
        run_here(tmp_path / "spec.yaml", tmp_path / "run")
    assert "is not selected" in caught.value.what
    assert caught.value.where == "geometry.plane.images"
    assert not list((tmp_path / "run" / "results").iterdir())


def test_tables_and_figures(undisturbed, door, tmp_path):
    status, printed, _ = door("geometry", undisturbed / "run", "--figures", tmp_path / "figures")
    assert status == 0
    for shown in ("cosine: mean cosine of gradients, 6 images", "2 copies, sigma 15", "plane: planes of 3 x 3 points",
                  "line: logits along", "parts: intervals of wrong labels"):  # fmt: skip
        assert shown in printed
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"cosine-matrix.svg", "cosine-copies.png", "parts-lines.svg"} <= names
    assert sum(name.startswith("plane-") for name in names) == 2 * 3
    assert sum(name.startswith("line-") for name in names) == 3 * 3
    status, _, error = door("geometry", tmp_path / "nothing")
    assert status == 2
    assert "is not the run folder" in error


def test_an_image_that_was_answered_for_twice_counts_once(undisturbed, tmp_path):
    run = undisturbed / "run"
    spec = load(undisturbed / "spec.yaml").spec
    for name, probe in spec.geometry.items():
        once = probe_rows(str(run), name, probe)
        twice = tmp_path / "run" / "geometry" / name
        twice.mkdir(parents=True)
        part = next((run / "geometry" / name).glob("*.parquet")).name
        for index in range(2):
            again = pl.read_parquet(run / "geometry" / name / "*.parquet").with_columns(unit=pl.lit(f"{index}"))
            again.write_parquet(twice / f"{part[:-9]}{index}{part[-8:]}")
        assert probe_rows(str(tmp_path / "run"), name, probe).height == once.height


def test_cosines_stand_beside_published_ones(undisturbed):
    run = str(undisturbed / "run")
    finished = open_run(run)
    means = plain_cosines(run, finished.spec)
    assert means.filter(pl.col("first") == pl.col("second"))["cosine"].to_list() == pytest.approx([1, 1])
    called = {"resnet101": "c", "resnet152": "a"}
    table = published.load("liu2017").filter(pl.col("metric") == "cosine", pl.col("sources").is_in(list(called)))
    empty = {"steps": pl.Int64, "level": pl.Float64, "reason": pl.String}
    matched = table.filter(pl.col("target").is_in(list(called))).with_columns(
        pl.lit("one").alias("experiment"),
        pl.lit("none").alias("our_attack"),
        pl.col("sources").replace_strict(called).alias("our_sources"),
        pl.col("target").replace_strict(called).alias("target"),
        pl.col("target").replace_strict(called).alias("our_target"),
        *(pl.lit(None, kind).alias(name) for name, kind in empty.items()),
        pl.lit(1, pl.Int64).alias("top"),
        pl.lit([7]).alias("seeds"),
    )
    found = paper_comparison.compare(matched, finished.rows, finished.spec, 6, means)
    assert found["comparable"].all()
    ours = {(row["our_sources"], row["target"]): row["ours"] for row in found.to_dicts()}
    expected = {(row["first"], row["second"]): row["cosine"] for row in means.to_dicts()}
    assert len(ours) == 3
    assert all(expected[pair] == value for pair, value in ours.items())
