"""The ranking of attacks, against loops over the rows."""

from __future__ import annotations

import shutil

import numpy as np
import polars as pl
import pytest

from study import analysis
from study.analysis.bootstrap import interval_of_mean
from study.analysis.intervals import interval_of_rate
from study.analysis.ranking import interval
from study.analysis.significance import difference
from study.results.run_reader import open_run
from study.spec.schema import Targets
from tests.conftest import rows


def hit(row) -> bool:
    return (row["top1"] == row["target_label"]) if row["goal"] == "targeted" else (row["top1"] != row["label"])


def by_image(run, attack, goal, level, relation="black"):
    """The share of answers about each image that are successes, in the order of ids, and the mean over cells."""
    level_is = pl.col("budget").is_null() if level is None else pl.col("budget") == level
    mine = rows(run).filter(level_is, attack=attack, goal=goal, relation=relation)
    mine = mine.filter(pl.col("steps") == mine["steps"].max())
    answers, cells = {}, {}
    for row in mine.iter_rows(named=True):
        answers.setdefault(row["image"], []).append(hit(row))
        cells.setdefault((*row["sources"], "|", row["target"], row["seed"]), []).append(hit(row))
    values = np.array([np.mean(answers[image]) for image in sorted(answers)])
    return values, np.mean([np.mean(one) for one in cells.values()])


@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
def test_numbers_are_those_of_a_loop(many_run, goal):
    one = open_run(str(many_run))
    found = analysis.ranking(one.rows, one.spec, "many", goal=goal)
    assert sorted(found["attack"]) == ["fgsm", "pgd"]
    assert found["success"].to_list() == sorted(found["success"], reverse=True)
    values = {}
    for row in found.iter_rows(named=True):
        values[row["attack"]], mean = by_image(many_run, row["attack"], goal, row["level"])
        assert row["success"] == pytest.approx(mean)
        mine = values[row["attack"]]
        ends = interval_of_rate(mine.sum(), len(mine)) if mine.std() == 0 else interval_of_mean(mine)
        assert (row["low"], row["high"]) == pytest.approx(ends)
        assert (row["relation"], row["images"]) == ("black", 4)
    first, second = found.to_dicts()
    assert (first["behind"], first["p"]) == (0, None)
    gap = values[first["attack"]] - values[second["attack"]]
    assert second["behind"] == pytest.approx(gap.mean())
    assert second["p"] == pytest.approx(difference(gap))


def test_images_that_agree_prove_no_certainty():
    low, high = interval(np.ones(4))
    assert (low, high) == interval_of_rate(4, 4)
    assert low < 0.6
    assert interval(np.zeros(4))[1] > 0.4
    assert interval(np.array([0.0, 1.0, 1.0, 1.0])) == interval_of_mean(np.array([0.0, 1.0, 1.0, 1.0]))


def test_white_box_cells_count_where_there_are_no_others(many_run):
    """Experiment `one` shows the images of a and b to a and b."""
    one = open_run(str(many_run))
    assert analysis.ranking(one.rows, one.spec, "one")["relation"].to_list() == ["black"]
    spec = one.spec.model_copy(
        update={
            "experiments": {"x": one.spec.experiments["one"].model_copy(update={"targets": Targets(models=("a",))})}
        }
    )
    alone = analysis.ranking(one.rows.filter(pl.col("sources").list.len() == 1, target="a"), spec, "x")
    assert alone["relation"].to_list() == ["black"]
    own = one.rows.filter(pl.col("sources").list.join("+") == pl.col("target"))
    white = analysis.ranking(own, one.spec, "one")
    assert white["relation"].to_list() == ["white"]
    assert white["success"][0] == pytest.approx(by_image(many_run, "pgd", "untargeted", white["level"][0], "white")[1])


def test_an_incomplete_run_has_no_interval(many_run, tmp_path):
    shutil.copytree(many_run, tmp_path / "run")
    one = open_run(str(tmp_path / "run"))
    some = one.rows.filter(~((pl.col("target") == "c") & (pl.col("image") == pl.col("image").first())))
    found = analysis.ranking(some, one.spec, "many", goal="untargeted")
    assert found["low"].null_count() == found.height
    assert found["success"].null_count() == 0
    nothing = analysis.ranking(one.rows.filter(pl.col("attack") == "none"), one.spec, "many", goal="untargeted")
    assert nothing.is_empty()
    assert nothing.columns == found.columns
