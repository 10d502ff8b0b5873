"""Actors, machines and drivers of a study on real Ray are killed, and units poison it: the rows do not show it."""

from __future__ import annotations

import csv
import io
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image
from rich.console import Console

from actors.backends.in_process import InProcess
from actors.backends.interface import ActorLost, CallFailed
from actors.launch.launch import launch
from actors.launch.options import LaunchOptions
from tests.chaos.harness import Disturbed, Mix, Tally, compare, published, whole
from tests.chaos.machines import Machines
from tests.chaos.processes import Launched, until
from tests.conftest import run_here

SMALL = """
study: small
seed: 3
images: {sample: foolbox, size: 48, keep: all, count: 6}
models:
  a: {network: "timm:test_efficientnet", weights: "random:3", size: 64}
  b: {network: "torchvision:squeezenet1_1", weights: "random:1", size: 48}
attacks:
  optimization: {steps: 6}
  fg: {budget: {rmsd: matched, to: optimization, by: mean}}
  pgd: {steps: 8}
experiments:
  single: {attacks: [optimization, fg, pgd], sources: each}
  ensemble: {attacks: [pgd], sources: all}
numerics: {batch: 2, threads: 1}
run: {shard: 1, flush_seconds: 0}
"""
"""Few crafts and many units, on networks that load quickly."""

CODE = '''
"""Networks that one white image is poison to, as long as a file named `armed` lies beside this one."""

import os
from pathlib import Path

from torch import nn

ARMED = Path(__file__).with_name("armed")


class Network(nn.Module):
    def __init__(self, poison):
        super().__init__()
        self.poison = poison
        self.body = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.SiLU(), nn.Flatten(), nn.Linear(4 * 7 * 7, 1000))

    def forward(self, x):
        if self.poison and ARMED.exists() and bool((x.mean(dim=(1, 2, 3)) > 0.9).any()):
            if self.poison == "raises" and x.requires_grad:
                raise RuntimeError("white is poison to gradients")
            if self.poison == "exits" and x.requires_grad:
                os._exit(3)
            if self.poison == "refuses" and not x.requires_grad and float(x.min()) < 1:
                raise RuntimeError("an adversarial white is poison to predictions")
        return self.body(x)


def make(poison=""):
    return Network(poison)
'''


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A folder with the small study, and its undisturbed run in this process."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "spec.yaml").write_text(SMALL)
    status, printed = run_here(folder / "spec.yaml", folder / "quiet")
    assert status == 0, printed
    return folder


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with Machines(2) as up:
        yield up


def assert_same(run: Path, quiet: Path) -> Tally:
    tally = compare(run, quiet)
    total = published(quiet)
    assert asdict(tally) == asdict(Tally(rows=total)), tally
    return tally


def test_damage_is_counted(small, tmp_path):
    run = shutil.copytree(small / "quiet", tmp_path / "run")
    parts = sorted((run / "results").iterdir())
    lost, doubled, changed = (pl.read_parquet(part) for part in parts[:3])
    parts[0].unlink()
    shutil.copy(parts[1], run / "results" / "again.parquet")
    changed.with_columns(rmsd=pl.Series(np.nextafter(changed["rmsd"].to_numpy(), 300))).write_parquet(parts[2])
    tally = compare(run, small / "quiet")
    assert (tally.lost, tally.duplicated, tally.different) == (lost.height, doubled.height, changed.height)


def test_killed_actors_and_a_killed_driver(small, tmp_path):
    study = Disturbed(small / "spec.yaml", tmp_path / "run", published(small / "quiet"))
    tally = study.carry_out(Mix(actors=2, drivers=1), seed=45)
    assert (tally.actor_kills, tally.driver_kills) == (2, 1)
    assert_same(tmp_path / "run", small / "quiet")


@pytest.mark.slow
def test_a_lost_machine(small, tmp_path, machines):
    study = Disturbed(small / "spec.yaml", tmp_path / "run", published(small / "quiet"), machines)
    tally = study.carry_out(Mix(actors=1, nodes=1), seed=45)
    assert (tally.actor_kills, tally.node_losses) == (1, 1)
    assert_same(tmp_path / "run", small / "quiet")


@pytest.mark.slow
@pytest.mark.parametrize("patience", [30, 300])
def test_no_machine_left(small, tmp_path, machines, patience, capsys):
    """After `test_a_lost_machine`, for it takes them all. An error with numbers, not a wait for what never comes."""
    while len(machines.nodes) < 2:
        machines.join()
    run = tmp_path / "run"
    words = [small / "spec.yaml", "--output", run, "--address", machines.address]
    driver = Launched([*words, "--set", f"run.start_seconds={patience}"], tmp_path / "run.log")
    try:
        until(lambda: published(run) > 0 or driver.status is not None, "no rows")
        assert driver.status is None, driver.printed
        begun = time.monotonic()
        for node in list(machines.nodes):
            machines.lose(node)
        status = driver.finish(120)
        seconds = time.monotonic() - begun
    finally:
        driver.end()
    with capsys.disabled():
        print(f"\nno machine left: ended after {seconds:.0f} s (run.start_seconds {patience})")
    assert status == 1, driver.printed
    assert "error: all workers are gone" in driver.printed
    assert "the cluster has 0 cores" in " ".join(driver.printed.split())
    assert "Traceback" not in driver.printed
    again = Launched(words, tmp_path / "again.log")
    try:
        assert again.finish(120) == 2, again.printed
    finally:
        again.end()
    assert "a worker with 1 thread needs 1 core of" in " ".join(again.printed.split())
    assert "Traceback" not in again.printed


@pytest.fixture
def poisoned(tmp_path) -> Path:
    """A study of four networks on four images, of which one is white."""
    (tmp_path / "code.py").write_text(CODE)
    draw = np.random.default_rng(0)
    with (tmp_path / "list.csv").open("w", newline="") as opened:
        for index, name in enumerate(["a.png", "b.png", "white.png", "z.png"]):
            pixels = draw.integers(0, 200, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(np.full_like(pixels, 255) if name == "white.png" else pixels).save(tmp_path / name)
            csv.writer(opened).writerow([name, index])
    network = {"network": f"python:{tmp_path / 'code.py'}:make", "weights": "random:1", "size": 32}
    network |= {"mean": [0, 0, 0], "std": [1, 1, 1]}
    kinds = {"fine": "", "raises": "raises", "exits": "exits", "refuses": "refuses"}
    spec = {
        "study": "poison",
        "images": {"folder": str(tmp_path), "list": str(tmp_path / "list.csv"), "size": 32, "keep": "all"},
        "models": {name: network | {"arguments": {"poison": poison}} for name, poison in kinds.items()},
        "attacks": {"fgsm": {"epsilon": 8}},
        "experiments": {"x": {"attacks": ["fgsm"], "sources": "each"}},
        "numerics": {"batch": 1, "threads": 1},
        "run": {"shard": 1, "flush_seconds": 0, "attempts": 2, "actors": 2},
    }
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    return tmp_path


class Exits(InProcess):
    """Loses the actor whose network would end its process."""

    def value(self, ref):
        try:
            return super().value(ref)
        except CallFailed as error:
            if "would exit" in error.what:
                raise ActorLost("an actor died") from error
            raise


def here(spec: Path, run: Path, make: type[InProcess] = InProcess) -> tuple[int, str]:
    printed = io.StringIO()
    status = launch(LaunchOptions(spec, run, allow_code=True), Console(file=printed, width=200), make)
    return status, printed.getvalue()


@pytest.mark.parametrize(
    "where",
    [
        "here",
        # What real processes add: tests/actors/backends/test_faults.py ends them in calls.
        pytest.param("on Ray", marks=pytest.mark.slow),
    ],
)
def test_poison_is_set_aside(poisoned, where):
    """Networks that raise and that end their process: the rest finishes, what failed is named, and made up for."""
    spec, run = poisoned / "spec.yaml", poisoned / "run"
    if where == "here":
        (poisoned / "code.py").write_text(CODE.replace("os._exit(3)", 'raise RuntimeError("this would exit")'))
    status, printed = here(spec, poisoned / "quiet")
    assert status == 0, printed
    quiet = pl.scan_parquet(poisoned / "quiet" / "results" / "*.parquet").collect()
    (poisoned / "armed").touch()
    if where == "here":
        status, printed = here(spec, run, Exits)
    else:
        driver = Launched([spec, "--output", run, "--allow-code"], poisoned / "run.log")
        try:
            status, printed = driver.finish(), driver.printed
        finally:
            driver.end()
    assert status == 1, printed
    assert "incomplete after" in printed
    white = quiet.filter(pl.col("image").str.contains("white"))
    unit = {source: one for (source,), one in white.select("sources", "unit").unique().iter_rows()}
    failures = {
        (one["unit"], one["target"]): one["error"]
        for one in json.loads((run / "failures.json").read_text())["failures"]
    }
    assert failures.keys() == {
        (unit["raises"], None),
        (unit["exits"], None),
        (unit["fine"], "refuses"),
        (unit["refuses"], "refuses"),
    }
    assert "white is poison to gradients" in failures[unit["raises"], None]
    assert "died" in failures[unit["exits"], None]
    assert "an adversarial white is poison to predictions" in failures[unit["fine"], "refuses"]
    tally = compare(run, poisoned / "quiet")
    assert asdict(tally) == asdict(Tally(rows=quiet.height - 10, lost=10))
    (poisoned / "armed").unlink()
    status, printed = here(spec, run)
    assert status == 0, printed
    assert not (run / "failures.json").exists()
    assert_same(run, poisoned / "quiet")


@pytest.mark.slow
def test_the_whole_of_it(tmp_path, capsys):
    """Ten runs with 55 kills of actors, 15 lost machines and 25 kills of drivers."""
    with capsys.disabled():
        tally = whole(tmp_path, 10, say=True)
    assert tally.runs == 10
    assert tally.actor_kills >= 50
    assert tally.node_losses >= 10
    assert tally.driver_kills >= 20
    assert (tally.lost, tally.duplicated, tally.different) == (0, 0, 0)
