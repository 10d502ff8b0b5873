"""Wilson intervals against scipy, and the bootstrap against a naive one with the same draws."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import scipy.stats

from study import analysis
from study.errors import StudyError
from tests.study.analysis.conftest import grouped


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_wilson(confidence):
    counts = [(hits, images) for images in (1, 2, 10, 100, 5000) for hits in sorted({0, 1, images // 3, images})]
    frame = pl.DataFrame(counts, schema={"hits": pl.UInt32, "images": pl.UInt32}, orient="row")
    low, high = analysis.wilson(pl.col("hits"), pl.col("images"), confidence)
    ours = frame.select(low.alias("low"), high.alias("high")).rows()
    for (hits, images), (least, most) in zip(counts, ours, strict=True):
        theirs = scipy.stats.binomtest(hits, images).proportion_ci(confidence, method="wilson")
        assert least == pytest.approx(theirs.low, abs=1e-12)
        assert most == pytest.approx(theirs.high, abs=1e-12)
        assert 0 <= least <= hits / images <= most <= 1


def test_wilson_without_images():
    low, high = analysis.wilson(pl.lit(0), pl.lit(0))
    assert pl.select(low.alias("low"), high.alias("high")).rows() == [(None, None)]


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_invalid_confidence(confidence):
    with pytest.raises(StudyError, match="a confidence level cannot be"):
        analysis.wilson(pl.lit(1), pl.lit(2), confidence)


def naive(cells: list[list[dict]], draws: int, seed: int, confidence: float) -> tuple[float, float, float]:
    """The rate of a cell, or the difference of two on their shared images, and the interval from resampled rows."""
    each = [grouped(cell, "image") for cell in cells]
    images = sorted(set.intersection(*(set(one) for one in each)))
    random = np.random.default_rng(seed)

    def value(drawn):
        rates = [np.mean([row["hit1"] for image in drawn for row in one[image]]) for one in each]
        return rates[0] if len(rates) == 1 else rates[0] - rates[1]

    found = [value([images[at] for at in random.integers(0, len(images), len(images))]) for _ in range(draws)]
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return value(images), low, high


def test_bootstrap_rates(scanned, loop):
    by = ("sources", "attack", "goal", "target")
    ours = analysis.bootstrap_rates(scanned, by=by, draws=80, seed=5, confidence=0.8)
    cells = grouped(loop, *by)
    assert ours.height == len(cells)
    for row in ours.filter(pl.col("attack").is_in(["mi", "sgm-half"])).to_dicts():
        expected = naive([cells[tuple(row[key] for key in by)]], 80, 5, 0.8)
        assert (row["success"], row["low"], row["high"]) == pytest.approx(expected)
        assert row["images"] == 8


def test_paired_differences(scanned, loop):
    by = ("sources", "goal", "target")
    point = (pl.col("attack") != "mi") | (pl.col("steps") == 3)
    ours = analysis.paired_differences(scanned.filter(point), "mi", "pgd", draws=100, seed=1)
    mi = grouped([row for row in loop if row["attack"] == "mi" and row["steps"] == 3], *by)
    pgd = grouped([row for row in loop if row["attack"] == "pgd"], *by)
    assert {tuple(row[key] for key in by) for row in ours.to_dicts()} == mi.keys() & pgd.keys()
    for row in ours.to_dicts():
        key = tuple(row[key] for key in by)
        assert (row["difference"], row["low"], row["high"]) == pytest.approx(naive([mi[key], pgd[key]], 100, 1, 0.95))


def test_several_points_in_a_cell_are_refused(scanned):
    with pytest.raises(StudyError, match="differ in `steps` or `budget`"):
        analysis.paired_differences(scanned, "mi", "pgd")
    with pytest.raises(StudyError, match="no rows of the attack 'di'"):
        analysis.paired_differences(scanned, "mi", "di")


def test_resampling_keeps_the_seeds_of_an_image_together(by_hand):
    """Duplicate outcomes add no images: the interval keeps its width, of the bootstrap and of `success_rates`."""
    once = [{"image": str(image), "top5": [3 if image % 3 else 1, 7, 8, 9, 5]} for image in range(30)]
    both = [{**row, "seed": seed} for row in once for seed in (0, 1)]
    one, two = (analysis.bootstrap_rates(by_hand(*rows), by=("target",)).to_dicts()[0] for rows in (once, both))
    assert one == two
    one, two = (analysis.success_rates(by_hand(*rows), by=("target",)).to_dicts()[0] for rows in (once, both))
    assert [two[key] for key in ("images", "success", "low", "high")] == [
        one[key] for key in ("images", "success", "low", "high")
    ]


def test_bootstrap_of_a_single_outcome_and_of_no_rows(by_hand):
    fooled = by_hand(*({"image": str(image)} for image in range(4)))
    (row,) = analysis.bootstrap_rates(fooled, draws=10).to_dicts()
    assert (row["success"], row["low"], row["high"]) == (1, 1, 1)
    (row,) = analysis.bootstrap_rates(fooled, by=(), draws=10).to_dicts()
    assert row == {"images": 4, "success": 1, "low": 1, "high": 1}
    assert analysis.bootstrap_rates(by_hand(), draws=10).is_empty()
    with pytest.raises(StudyError, match="0 draws"):
        analysis.bootstrap_rates(fooled, draws=0)
