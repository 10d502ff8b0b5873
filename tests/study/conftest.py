"""A study of two units, and a process whose children die in the middle of writing."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, rows, run_here

SMALL = """
study: small
images: {sample: foolbox, size: 32, keep: all, count: 2}
models:
  a: {network: "timm:test_resnet", weights: "random:1", size: 32}
  b: {network: "timm:test_resnet", weights: "random:2", size: 32}
attacks:
  fgsm: {}
experiments:
  all: {attacks: fgsm, sources: {each: [a]}}
numerics: {batch: 1, threads: 1}
run: {shard: 1, actors: 1, flush_seconds: 0}
"""
"""Two units, each published as its own part."""


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """The spec, the rows of an undisturbed run, and the run."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "spec.yaml").write_text(SMALL)
    status, printed = run_here(folder / "spec.yaml", folder / "run")
    assert status == 0, printed
    return folder / "spec.yaml", rows(folder / "run"), folder / "run"


@pytest.fixture(scope="session")
def crashing():
    """Runs an order of `tests.study.crashing` in a process that may die: exit status, steps, error."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.study.crashing"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"},
    )  # fmt: skip

    def run(spec, run, at=-1, how="no", do="launch"):
        aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        order = {"do": do, "spec": str(spec), "run": str(run), "at": at, "how": how, "environment": aws}
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield run
    process.kill()
    process.wait()
