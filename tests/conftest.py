"""What tests share: a tiny study on real weights, run in this process, and where outside data lies."""

from __future__ import annotations

import collections
import fcntl
import functools
import hashlib
import io
import os
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from rich.console import Console

import actors.launch.launch
import cli
from actors.backends.in_process import InProcess
from actors.launch.launch import launch
from actors.launch.options import LaunchOptions
from study.images import decoding
from study.images.image_sets import ImageSet, candidates
from study.process.command import status_of
from study.process.interrupt import Interrupt
from study.reproducibility import numerics, user_files
from tests import tiers

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

TINY = """
study: tiny
seed: 7
images: {sample: foolbox, size: 48, keep: all, count: 6}
models:
  a: {network: "timm:test_efficientnet", weights: "random:3", size: 64}
  b: {network: "torchvision:squeezenet1_1", weights: "random:1", size: 48}
  c: {network: "timm:test_resnet", weights: "random:2", size: 56}
attacks:
  optimization: {steps: 3}
  fg: {budget: {rmsd: matched, to: optimization, by: image}}
  fgs: {budget: {rmsd: matched, to: optimization, by: mean}}
  mi: {steps: 2}
  summed: {preset: optimization, steps: 2, fusion: summed-updates, learning_rate: 8}
experiments:
  single: {attacks: [optimization, fg, fgs, mi], sources: each, goal: [untargeted, targeted]}
  ensembles: {attacks: [mi, summed], sources: leave-one-out}
numerics: {batch: 2, threads: 1}
run: {shard: 2, actors: 1, flush_seconds: 0}
"""
"""A study of everything at once, on networks and sizes that take milliseconds."""
FEWER = TINY.replace("sources: each, goal", "sources: [b], goal").replace("leave-one-out", "[[a, c]]")
"""A third of its attack runs, of every kind: for tests that launch it several times."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make test` leaves to CI.

    The runs of tests/undisturbed come before the many short tests, which fill what time is left on each of two cores.
    """
    seen: collections.Counter[tuple[str, str]] = collections.Counter()
    for item in items:
        path, name = item.path.relative_to(ROOT).as_posix(), getattr(item, "originalname", item.name)
        if not item.get_closest_marker("slow"):
            seen[path, name] += 1
        most = tiers.FIRST.get(path, {}).get(name)
        if name in tiers.WHOLE.get(path, ()) or (most is not None and seen[path, name] > most):
            item.add_marker("ci")

    def when(item: pytest.Item) -> int:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        return 1 if folder == "undisturbed" else 2 if folder == "study" or folder.endswith(".py") else 0

    items.sort(key=when)


@pytest.fixture(autouse=True)
def _as_in_a_new_process():
    """One thread, the flags of a CPU, and the global generators at one place: what ran before here changes nothing."""
    with numerics.restored():
        numerics.fix(1)
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        yield


@pytest.fixture(autouse=True)
def _leaves_nothing_to_import():
    """A test that leaves a module of its temporary folder would decide what another test imports by that name."""
    modules, path = set(sys.modules), list(sys.path)
    yield
    user_files.forget()
    left = {name for name in set(sys.modules) - modules if _is_temporary(sys.modules[name], name)}
    for name in left:
        del sys.modules[name]
    assert not left, "modules of temporary folders are still imported"
    assert sys.path == path


def _is_temporary(module: object, name: str) -> bool:
    if name.startswith("study_code_"):
        return False  # the name is a digest of the text, so no test takes another one's
    places = [getattr(module, "__file__", None), *(getattr(module, "__path__", None) or ())]
    return any(one is not None and "/pytest-of-" in str(one) for one in places)


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the real images and weights of ../shared are not beside this checkout")
    return SHARED


@pytest.fixture
def spec_file(tmp_path):
    """Writes a spec: the tiny one, with top-level keys replaced, or a text as it is."""

    def write(changes: dict | str | None = None, name: str = "spec.yaml") -> Path:
        path = tmp_path / name
        text = changes if isinstance(changes, str) else yaml.safe_dump(yaml.safe_load(TINY) | (changes or {}))
        path.write_text(text)
        return path

    return write


@pytest.fixture
def door(monkeypatch, capsys):
    """Runs `study` with these words in this process; status, standard output, standard error."""
    monkeypatch.setattr(actors.launch.launch, "RayBackend", lambda *_: InProcess())

    def run(*words) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["study", *map(str, words)])
        with Interrupt() as interrupt:
            status = status_of(functools.partial(cli.app, prog_name="study"), interrupt)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def photographs(images: ImageSet, rows: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """The images of a set in the order of their ids, `uint8` (N, C, S, S), and their labels."""
    found = sorted(candidates(images, 0), key=lambda one: one.image)[rows]
    return np.stack([decoding.read(one.file, images) for one in found]), np.array([one.label for one in found])


def run_here(spec: Path, output: Path, *overrides: str, order: int | None = None) -> tuple[int, str]:
    """Launch in this process, completing calls in an order drawn from `order`; exit status and what was printed."""
    printed = io.StringIO()
    console = Console(file=printed, width=120)
    shuffled = None if order is None else random.Random(order)
    status = launch(LaunchOptions(spec, output, overrides=overrides), console, lambda: InProcess(shuffled))
    return status, printed.getvalue()


def rows(run: Path, *, without: tuple[str, ...] = ()) -> pl.DataFrame:
    """All rows of a run in one order, all columns but `without`."""
    frame = pl.scan_parquet(run / "results" / "**/*.parquet").drop(without).collect()
    return frame.sort(pl.col("sources").list.join("+"), "attack", "goal", "steps", "budget", "target", "image")


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Runs the spec of a text to its end in this process: a run folder that no other process uses.

    The processes of one test session share the work: the first that asks runs it, the others wait and take a copy.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    @functools.cache
    def run(text: str) -> Path:
        name = hashlib.sha256(text.encode()).hexdigest()[:12]
        copied, made = tmp_path_factory.mktemp("finished") / "run", shared / f"run-{name}"
        with (shared / f"run-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                (copied.parent / "spec.yaml").write_text(text)
                status, printed = run_here(copied.parent / "spec.yaml", copied)
                assert status == 0, printed
                shutil.copytree(copied, shared / f"run-{name}.part")
                (shared / f"run-{name}.part").rename(made)
        if not copied.exists():
            shutil.copytree(made, copied)
        return copied

    return run


@pytest.fixture(scope="session")
def tiny_run(finished) -> Path:
    """The tiny study, run undisturbed in this process."""
    return finished(TINY)


MANY = """
study: many
seed: 7
images: {sample: foolbox, size: 48, keep: all, count: 4}
models:
  a: {network: "timm:test_efficientnet", weights: "random:3", size: 64}
  a-jpeg: {model: a, transform: {jpeg: 75}}
  b: {network: "torchvision:squeezenet1_1", weights: "random:1", size: 48}
  c: {network: "timm:test_resnet", weights: "random:2", size: 56}
attacks:
  pgd: {steps: 2, checkpoints: [1]}
  fgsm: {epsilon: [4, 16]}
  fg-minimal: {budget: {minimal: {from: 4, to: 40, by: 6}}}
experiments:
  one: {attacks: [pgd], sources: [a, b], seeds: [0], targets: [a, b]}
  many: {attacks: [pgd, fgsm], sources: [a, b, [a, b]], goal: [untargeted, targeted], seeds: [0, 1, 2]}
  smallest: {attacks: [fg-minimal], sources: [a], targets: [a, b, c], goal: targeted}
numerics: {batch: 4, threads: 1}
run: {shard: 4, actors: 1, flush_seconds: 0}
"""
"""Two experiments that share crafts, with goals, seeds, steps and budgets; targets of every relation; a search."""


@pytest.fixture(scope="session")
def many_run(finished) -> Path:
    """The study of experiments that share crafts, run undisturbed in this process."""
    return finished(MANY)


@pytest.fixture(scope="session")
def small_model():
    """A small smooth classifier of 12x12 pixels with fixed random weights: quick, and no part of any zoo."""
    torch.manual_seed(0)
    return (
        torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1),
            torch.nn.SiLU(),
            torch.nn.Conv2d(8, 8, 3, stride=2, padding=1),
            torch.nn.SiLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(8 * 6 * 6, 10),
        )
        .eval()
        .requires_grad_(False)
    )


@pytest.fixture(scope="session")
def small_images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 3, 12, 12), dtype=np.uint8)
