"""Rates over clean-correct images beside those over all, and targets that give no answer."""

from __future__ import annotations

import polars as pl
import pytest

from study.analysis.experiments import averaged, cells, of_experiment, with_clean_correct, with_level
from study.analysis.rates import success_rates
from study.images.labels import ABSTAINED
from study.results.run_reader import open_run

NEW = ["clean_correct", "clean_correct_low", "clean_correct_high", "clean_correct_images"]


@pytest.fixture
def opened(tiny_run):
    return open_run(str(tiny_run))


def test_both_rates_are_those_of_their_images(opened):
    """Every image whose id ends in an even digit counts as right when clean."""
    even = pl.col("image").hash(seed=1) % 2 == 0
    rows = opened.rows.with_columns(clean_top1=pl.when(even).then("label").otherwise(pl.lit(-5, pl.Int32)))
    base = averaged(of_experiment(cells(rows, opened.spec), opened.spec, "single"))
    found = with_clean_correct(base, of_experiment(rows, opened.spec, "single"), opened.spec)
    assert found.drop(NEW).equals(base)
    keys = ["attack", "sources", "goal", "steps", "level", "target"]
    flat = with_level(rows, opened.spec).with_columns(pl.col("sources").list.join("+")).collect()
    for cell in found.iter_rows(named=True):
        own = flat.filter(*(pl.col(key).eq_missing(pl.lit(cell[key])) for key in keys), clean_top1=pl.col("label"))
        hit = own["top1"] != own["label"] if cell["goal"] == "untargeted" else own["top1"] == own["target_label"]
        assert cell["clean_correct_images"] == own.height
        assert cell["clean_correct"] == (pytest.approx(hit.mean()) if own.height else None)
    assert 0 < found["clean_correct_images"].max() < found["images"].max()


def test_no_answer_is_a_wrong_answer_for_every_rate(opened):
    rows = opened.rows.filter(pl.col("target") == "b").with_columns(top1=pl.lit(ABSTAINED, pl.Int32))
    for top in (1, 5):
        rates = success_rates(rows, top=top, by=("goal",))
        assert dict(rates.select("goal", "success").iter_rows()) == {"targeted": 0.0, "untargeted": 1.0}
