"""The engine's parts through a whole study: sweeps, checkpoints, searches, pools and skip gradients become rows."""

from __future__ import annotations

import json

import polars as pl
import pytest

from tests.conftest import rows, run_here

PARTS = """
study: parts
seed: 7
images: {sample: foolbox, size: 32, keep: all, count: 6}
models:
  a: {network: "timm:test_resnet", weights: "random:3", size: 32}
  b: {network: "timm:test_resnet", weights: "random:2", size: 32}
attacks:
  sweep: {preset: fgsm, epsilon: [2, 4, 8.5]}
  stops: {preset: mi, steps: 3, checkpoints: [1, 2]}
  matched: {preset: fgs, budget: {rmsd: matched, to: stops, by: image}}
  fg-minimal: {budget: {minimal: {from: 2, to: 40, by: 2}}}
  admix: {steps: 2, scales: 2, admix: {pool: 4}}
  mi+di+sgm: {steps: 2}
  vmi: {steps: 2, variance: {samples: 2}}
  pgd: {steps: 2}
experiments:
  all: {attacks: [sweep, stops, matched, fg-minimal, admix, mi+di+sgm, vmi, pgd], sources: each}
  both: {attacks: [mi+di+sgm, sweep], sources: all, goal: targeted}
numerics: {batch: 5, threads: 1}
run: {shard: 3, actors: 1, flush_seconds: 0}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    (folder / "spec.yaml").write_text(PARTS)
    status, printed = run_here(folder / "spec.yaml", folder / "run")
    assert status == 0
    return folder, printed


def of(run, attack):
    return rows(run[0] / "run").filter(pl.col("attack") == attack)


def test_a_sweep_has_a_row_for_every_budget(run):
    found = of(run, "sweep").filter(goal="untargeted")
    assert found.height == 3 * 2 * 2 * 6
    assert set(found["budget"]) == {2.0, 4.0, 8.5}
    assert set(found["gradients"]) == {1}
    largest = found.group_by("budget").agg(pl.col("linf").max()).sort("budget")
    assert largest["linf"].to_list() == [2, 4, 8]
    for shown in ("sweep, epsilon 2", "sweep, epsilon 8.5", "stops, 1 step", "stops, 3 steps", "fg-minimal"):
        assert shown in run[1]


def test_checkpoints_have_rows_and_the_last_is_what_others_match(run):
    stops = of(run, "stops")
    assert set(stops.select("steps", "gradients").iter_rows()) == {(1, 1), (2, 2), (3, 3)}
    last = stops.filter(steps=3).select("image", "target", pl.col("sources").list.first(), "rmsd")
    matched = of(run, "matched").select("image", "target", pl.col("sources").list.first(), matched="rmsd")
    both = last.join(matched, on=["image", "target", "sources"])
    assert both.height == 4 * 6
    assert ((both["rmsd"] - both["matched"]).abs() < 0.02).all()
    assert of(run, "matched")["budget"].is_null().all()


def test_a_search_ends_where_its_target_gives_way(run):
    found = of(run, "fg-minimal")
    assert found.height == 4 * 6
    assert ((found["rmsd"] - found["budget"]).abs() < 0.02).all()
    left = found["top5"].list.first() != found["label"]
    assert left.any()
    assert (found.filter(~left)["budget"] == 40).all()


def test_gradients_are_counted(run):
    expected = {"admix": 2 * 3 * 2, "mi+di+sgm": 2, "vmi": 2 + 2, "pgd": 2, "fg-minimal": 1}
    for attack, count in expected.items():
        found = of(run, attack).filter(pl.col("sources").list.len() == 1)
        assert set(found["gradients"]) == {count}, attack
    assert set(of(run, "mi+di+sgm").filter(goal="targeted")["gradients"]) == {4}


def test_shards_and_batches_change_no_row(run, tmp_path):
    """On a CPU the batch size too: passes are multiples of four images, whatever the batch."""
    spec = tmp_path / "spec.yaml"
    spec.write_text(PARTS)
    status, _ = run_here(spec, tmp_path / "other", "run.shard=2", "numerics.batch=8", order=5)
    assert status == 0
    # Ids name the numerics, and a matched craft's reference; all else is what it was.
    without = ("unit", "craft")
    assert rows(tmp_path / "other", without=without).equals(rows(run[0] / "run", without=without))


def test_skip_gradients_need_a_skip(tmp_path):
    """A network without residual branches is set aside by name; what can be done is done."""
    text = PARTS.replace('b: {network: "timm:test_resnet"', 'b: {network: "torchvision:squeezenet1_1"')
    text = text.replace(
        "attacks: [sweep, stops, matched, fg-minimal, admix, mi+di+sgm, vmi, pgd]", "attacks: [mi+di+sgm]"
    )
    spec = tmp_path / "spec.yaml"
    spec.write_text(text)
    status, printed = run_here(spec, tmp_path / "run")
    assert status == 1
    failures = json.loads((tmp_path / "run" / "failures.json").read_text())["failures"]
    assert len(failures) == 2
    assert all("residual branches or dense layers, but none are known in b" in one["error"] for one in failures)
    assert "2 units are left" in printed
    assert set(rows(tmp_path / "run")["sources"].list.join("+")) == {"a", "a+b"}
