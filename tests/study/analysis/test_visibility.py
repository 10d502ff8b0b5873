"""Success beside cost and visibility, against naive loops over the rows."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from study import analysis
from study.analysis.experiments import averaged, cells, of_experiment
from study.images import decoding
from study.images.image_sets import candidates
from study.results.kept_images import deltas
from study.results.run_reader import open_run
from study.storage.run_folder import RunFolder
from study.visibility.measures import visibility
from tests.conftest import MANY, rows


def found_of(run, experiment, by="ssim"):
    one = open_run(str(run))
    means = averaged(of_experiment(cells(one.rows, one.spec), one.spec, experiment))
    return analysis.visibility(one.rows, means, one.spec, experiment, by=by)


def test_means_are_those_of_a_loop(many_run):
    found = found_of(many_run, "many")
    every = rows(many_run).filter(pl.col("attack").is_in(["pgd", "fgsm"]))
    points = {(one["goal"], one["attack"], one["steps"], one["level"]): one for one in found.iter_rows(named=True)}
    assert len(points) == found.height == 2 * (2 + 2)
    for (goal, attack, steps, level), one in points.items():
        level_is = pl.col("budget").is_null() if level is None else pl.col("budget") == level
        mine = every.filter(pl.col("goal") == goal, pl.col("attack") == attack, pl.col("steps") == steps, level_is)
        images = {(row["craft"], row["image"]): row for row in mine.iter_rows(named=True)}
        assert one["images"] == len(images) == 3 * 3 * 4
        for column in ("rmsd", "linf", "ssim", "ciede2000"):
            assert one[column] == pytest.approx(np.mean([row[column] for row in images.values()]), abs=1e-6)
        psnr = [20 * math.log10(255 / row["rmsd"]) for row in images.values() if row["rmsd"] > 0]
        assert one["psnr"] == pytest.approx(np.mean(psnr), abs=1e-6)
        black = mine.filter(pl.col("relation") == "black")
        wanted = "target_label" if goal == "targeted" else "label"
        reached = [(row["top1"] == row[wanted]) == (goal == "targeted") for row in black.iter_rows(named=True)]
        assert one["success"] == pytest.approx(np.mean(reached)), "every cell has as many images"


@pytest.mark.parametrize("by", ["ssim", "ciede2000"])
def test_the_front_is_what_nothing_beats(many_run, by):
    found = found_of(many_run, "many", by)
    sign = 1 if by == "ssim" else -1
    for goal in ("untargeted", "targeted"):
        points = list(found.filter(goal=goal).iter_rows(named=True))
        for one in points:
            mine = (one["success"], -one["gradients"], sign * one[by])
            beaten = False
            for other in points:
                theirs = (other["success"], -other["gradients"], sign * other[by])
                beaten |= theirs != mine and min(b - a for a, b in zip(mine, theirs, strict=True)) >= 0
            assert one["front"] == (not beaten)
        assert any(one["front"] for one in points)


def test_a_search_is_left_out(many_run):
    assert found_of(many_run, "smallest").is_empty()
    assert rows(many_run).filter(pl.col("attack") == "fg-minimal")["ssim"].null_count() > 0


def test_rows_have_the_measures_of_the_images(finished):
    """Those of the images that the run keeps, computed anew from the photographs."""
    run = finished(MANY.replace("flush_seconds: 0}", "flush_seconds: 0, keep_images: true}"))
    one = open_run(str(run))
    clean = {
        each.image: decoding.read(each.file, one.spec.images) for each in candidates(one.spec.images, one.spec.seed)
    }
    every = rows(run).filter(pl.col("attack") == "fgsm", pl.col("budget") == 16, pl.col("goal") == "untargeted")
    crafts, images = every["craft"].unique().to_list(), every["image"].unique().to_list()
    kept = deltas(RunFolder(str(run)), crafts, images, 1)
    assert kept.height == len(crafts) * len(images)
    for craft, image, _, delta in kept.iter_rows():
        before = clean[image][None]
        after = before + np.frombuffer(delta, np.uint8).reshape(before.shape)
        seen = visibility(before, after)
        mine = every.filter(pl.col("craft") == craft, pl.col("image") == image)
        assert mine["ssim"].to_list() == seen.ssim.tolist() * mine.height
        assert mine["ciede2000"].to_list() == seen.ciede2000.tolist() * mine.height


def test_the_command(door, many_run):
    status, printed, _ = door("show", str(many_run), "--visibility")
    assert status == 0
    assert "many, untargeted: success, cost and visibility" in printed
    *tables, note = printed.splitlines()
    assert max(map(len, tables)) <= 80
    assert note.startswith("PSNR (decibels)")
