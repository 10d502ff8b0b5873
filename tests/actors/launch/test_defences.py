"""Defended targets in a launch: the same rows in one process and on Ray, in every shard and batch, read by commands."""

from __future__ import annotations

import re

import polars as pl
import pytest
import torch
import yaml

from study.analysis import success_rates
from study.images.labels import ABSTAINED
from study.results.verify import verify
from tests.conftest import ROOT, rows
from tests.study.defences.test_stages import residual
from tests.undisturbed.undisturbed import assert_undisturbed, launch

NETWORK = {"network": "timm:test_vit", "weights": "random:2", "size": 160}
SMOOTHING = {"smoothing": {"sigma": 90, "draws": 12, "alpha": 0.05}}

SPEC = {
    "study": "defended",
    "seed": 3,
    "images": {"sample": "foolbox", "size": 48, "keep": "all", "count": 4},
    "models": {
        "source": {"network": "torchvision:squeezenet1_1", "weights": "random:1", "size": 48},
        "plain": NETWORK,
        "smoothed": {"model": "plain", "transform": SMOOTHING},
        "own": {"model": "plain", "transform": [{"python": "defence.py:Coarse", "step": 64}, {"jpeg": 80}]},
        "nrp": {
            "model": "source",
            "transform": {"nrp": {"weights": "file:purifier.pth", "architecture": "residual", "blocks": 1}},
        },
    },
    "attacks": {"mi": {"steps": 2}},
    "experiments": {"one": {"attacks": ["mi"], "sources": ["source"], "goal": ["untargeted", "targeted"]}},
    "numerics": {"batch": 4, "threads": 1},
    "run": {"shard": 2, "actors": 1},
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a purifier's weights, the defence of docs/extending.md, and the spec."""
    monkeypatch.chdir(tmp_path)
    torch.save(residual(1), tmp_path / "purifier.pth")
    page = (ROOT / "docs" / "extending.md").read_text()
    (code,) = (text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "# defence.py" in text)
    (tmp_path / "defence.py").write_text(code)
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SPEC, sort_keys=False))
    return tmp_path


KEYS = ["goal", "image", "target"]


def sorted_rows(folder):
    return rows(folder).drop("unit", "craft").sort(KEYS)


def test_defended_targets(here, door):
    status, _, error = door("launch", "spec.yaml", "--inline")
    assert status == 2
    assert "--allow-code" in error
    run = here / "run"
    status, printed, error = door("launch", "spec.yaml", "--output", run, "--inline", "--allow-code")
    assert status == 0, printed + error
    assert verify(run).findings == []
    found = sorted_rows(run)
    relations = dict(found.select("target", "relation").unique().iter_rows())
    assert relations == {"source": "white", "plain": "black", "smoothed": "black", "own": "black", "nrp": "grey"}

    smoothed = found.filter(target="smoothed")
    silent = smoothed["top1"] == ABSTAINED
    assert silent.any()
    assert (smoothed.filter(~silent)["top1"] == smoothed.filter(~silent)["top5"].list.first()).all()
    assert set((smoothed["top5_prob"].list.first() * 12).round(3) % 1) == {0.0}
    rates = {(goal, target): rate for goal, target, rate in success_rates(
        rows(run).lazy(), by=("goal", "target")).select("goal", "target", "success").iter_rows()}  # fmt: skip
    wanted = smoothed.filter(goal="untargeted")
    assert rates["untargeted", "smoothed"] == pytest.approx((wanted["top1"] != wanted["label"]).mean())

    clean = pl.read_parquet(run / "images.parquet").explode("clean").unnest("clean").filter(model="smoothed")
    recorded = clean["abstained"] if "abstained" in clean.columns else pl.Series([False] * 4)
    first = smoothed.filter(goal="untargeted").sort("image")["clean_top1"] == ABSTAINED
    assert recorded.to_list() == first.to_list()

    status, printed, error = door("show", run)
    assert status == 0, error
    assert "smoothed gives no answer to" in printed
    status, printed, error = door("show", run, "--clean-correct")
    assert status == 0, error
    assert "In parentheses: the rate over the images that the target classifies correctly when clean" in printed
    assert re.search(r"\d+ \((\d+|–)\)", printed)
    for form in ("markdown", "csv", "siunitx", "latex", "typst"):
        status, printed, error = door("table", run, "--clean-correct", "--format", form)
        assert status == 0, error
    status, printed, error = door("models", "spec.yaml", "--allow-code")
    assert status == 0, error
    assert "smoothing sigma 90" in re.sub(r"\s+", " ", printed)

    # Other shards and batches: the same answers.
    other = yaml.safe_dump(SPEC | {"run": SPEC["run"] | {"shard": 4}}, sort_keys=False)
    (here / "other.yaml").write_text(other)
    status, printed, error = door("launch", "other.yaml", "--output", "other", "--inline", "--allow-code")
    assert status == 0, printed + error
    assert sorted_rows(here / "other").equals(found)

    # Another file of weights is another target.
    torch.save({name: value + 1 for name, value in residual(1).items()}, here / "purifier.pth")
    status, _, error = door("launch", "spec.yaml", "--output", run, "--inline", "--allow-code")
    assert status == 0, "nothing is left to do, so that no model is loaded"
    (here / "purifier.pth").unlink()
    status, _, error = door("launch", "other.yaml", "--output", "third", "--inline", "--allow-code")
    assert status == 2
    assert "purifier.pth does not exist" in error


def test_ray_runs_defences_as_this_process_does(here, door):
    done = launch("spec.yaml", "--output", here / "ray", "--allow-code", here=here)
    assert_undisturbed(done, here / "ray")
    status, printed, error = door("launch", "spec.yaml", "--output", "inline", "--inline", "--allow-code")
    assert status == 0, printed + error
    assert sorted_rows(here / "ray").equals(sorted_rows(here / "inline"))


@pytest.mark.parametrize(
    ("transform", "what"),
    [
        ([{"smoothing": 5}, {"jpeg": 75}], "but 'jpeg' follows"),
        ({"nrp": {"weights": "file:nowhere.pth"}}, "nowhere.pth does not exist"),
        ({"nrp": {"weights": "file:purifier.pth"}}, "do not fit nrp"),
        ({"python": "nowhere.py:Mine"}, "nowhere.py"),
        ({"python": "defence.py:Nobody"}, "no component 'Nobody'"),
    ],
)
def test_a_launch_refuses_what_cannot_run(here, door, transform, what):
    models = SPEC["models"] | {"bad": {"model": "plain", "transform": transform}}
    (here / "bad.yaml").write_text(yaml.safe_dump(SPEC | {"models": models}, sort_keys=False))
    status, _, error = door("launch", "bad.yaml", "--inline", "--allow-code")
    assert status == 2
    assert what in re.sub(r"\s+", " ", error)
